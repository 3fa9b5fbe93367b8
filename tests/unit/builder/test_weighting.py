"""A number for each tensor: forms, gradients over depth, selectors, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.weighting import ONE, Weighting
from registry.components import Network
from registry.errors import InvalidError

NAMES = (
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.{part}.weight" for layer in range(5) for part in ("self_attn.q_proj", "mlp.up_proj")),
    "model.norm.weight",
    "lm_head.weight",
)
NETWORK = Network.from_tensors(NAMES)
FORMS = "write a number, a list of numbers over depth, or a list of tables with `on` and `value`"


def resolved(value: object) -> dict[str, float]:
    return Weighting.parse(value, where="here").resolve(NETWORK)


def test_a_number_holds_everywhere() -> None:
    assert resolved(0.25) == dict.fromkeys(NAMES, 0.25)
    assert ONE.constant == 1.0


def test_a_gradient_goes_over_the_layers_and_its_ends_hold_outside_of_them() -> None:
    found = resolved([0, 1, 0.5])
    assert [found[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(5)] == [0, 0.5, 1, 0.75, 0.5]
    assert found["model.embed_tokens.weight"] == 0
    assert found["model.norm.weight"] == found["lm_head.weight"] == 0.5


def test_a_network_of_one_layer_has_the_first_value_in_it() -> None:
    network = Network.from_tensors(["model.layers.0.mlp.up_proj.weight"])
    assert Weighting.parse([2, 3], where="here").resolve(network) == {"model.layers.0.mlp.up_proj.weight": 2}


def test_the_last_table_that_means_a_tensor_counts_and_none_means_zero() -> None:
    found = resolved([{"on": ["attention", "mlp"], "value": 0.5}, {"on": {"layers": "0-1"}, "value": [0, 4]}])
    assert found["model.layers.1.self_attn.q_proj.weight"] == 1
    assert found["model.layers.2.mlp.up_proj.weight"] == 0.5
    assert found["lm_head.weight"] == 0


@pytest.mark.parametrize(
    ("value", "what", "mend"),
    [
        ("0.5", "expected a number, got '0.5'", FORMS),
        (True, "expected a number, got True", FORMS),
        (float("inf"), "expected a number, got inf", FORMS),
        (10**400, f"expected a number, got {repr(10**400)[:60]}", FORMS),
        ([], "expected a number, got 0 numbers", FORMS),
        ([1, None], "expected a number, got None", FORMS),
        ([1, {"value": 1}], "expected a number, got {'value': 1}", FORMS),
        ([{"on": "attention"}], "missing key 'value'", "add it: the number for what `on` means"),
        ([{"for": "attention", "value": 1}], "unknown key 'for'", "write `on` and `value`"),
    ],
)
def test_what_is_none_of_the_forms_is_refused(value: Any, what: str, mend: str) -> None:  # noqa: ANN401 - any value
    with pytest.raises(InvalidError) as caught:
        Weighting.parse(value, where="here")
    assert (caught.value.what, caught.value.where, caught.value.mend) == (what, "here", mend)


def test_a_number_out_of_bounds_is_refused() -> None:
    with pytest.raises(InvalidError) as caught:
        Weighting.parse([0.5, 2], where="here", allowed=lambda number: number <= 1, expected="a number up to 1")
    assert caught.value.what == "expected a number up to 1, got 2"


def test_a_selector_that_matches_nothing_is_refused() -> None:
    with pytest.raises(InvalidError) as caught:
        resolved([{"on": "router", "value": 1}])
    assert caught.value.what == "router matches nothing"


_NUMBERS = st.floats(-1000, 1000, allow_nan=False)
_VALUES = _NUMBERS | st.lists(_NUMBERS, min_size=1, max_size=4)
_TABLES = st.lists(
    st.fixed_dictionaries(
        {"value": _VALUES}, optional={"on": st.sampled_from(["attention", "*.weight", ["mlp", "head"]])}
    ),
    min_size=1,
    max_size=3,
)


@given(_VALUES | _TABLES)
def test_the_normal_form_says_the_same(value: object) -> None:
    weighting = Weighting.parse(value, where="here")
    again = Weighting.parse(weighting.to_json(), where="here")
    assert again == weighting
    assert again.resolve(NETWORK) == weighting.resolve(NETWORK)


@pytest.mark.parametrize(
    ("value", "normal"),
    [([0.5, 0.5], 0.5), ([0.1, 0.1, 0.1], 0.1), (-0.0, 0.0), ([0.0, -0.0], 0.0), ([1, 2], [1.0, 2.0])],
)
def test_what_says_the_same_has_one_form(value: object, normal: object) -> None:
    found = Weighting.parse(value, where="x").to_json()
    assert repr(found) == repr(normal)
    tables = Weighting.parse([{"value": 0}, {"on": "mlp", "value": value}], where="x").to_json()
    assert repr(tables) == repr([{"value": 0.0}, {"on": ["mlp"], "value": normal}])
    assert repr(Weighting.of(-0.0).to_json()) == "0.0"
