"""Layers put together: ranges and counts that are refused, and the configuration of the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.weights.slices import Part, stack_config, stack_layers
from registry.errors import InvalidError

if TYPE_CHECKING:
    from registry.canonical import JSON


def part(name: str, *taken: tuple[int, str], layers: int = 4, blended: bool = True) -> Part:
    return Part(name=name, layers=layers, taken=taken, blended=blended)


def test_entries_follow_each_other_layer_by_layer() -> None:
    stack = stack_layers([part("a", (0, "0-1"), (2, "3")), part("b", (1, "2-3"), (2, "0"))], where="here")
    assert stack.entries == ({0: range(2)}, {1: range(2, 4)}, {0: range(3, 4), 1: range(1)})
    assert stack.layers == ({0: 0}, {0: 1}, {1: 2}, {1: 3}, {0: 3, 1: 0})


@pytest.mark.parametrize(
    ("parts", "what", "mend"),
    [
        (
            [part("a", (0, "0-4"))],
            "layers 0-4 of a are wanted; it has 4, 0-3",
            "the last layer counts too: write 0-15 for sixteen",
        ),
        ([part("a", (0, "3-1"))], "layers 3-1 run backwards", "write 1-3, or single layers in that order"),
        ([part("a", (0, "x"))], "'x' is no range of layers", "write layers such as 0-15, or one"),
        (
            [part("a", (0, "0-1")), part("b", (0, "0-2"))],
            "entry 1 of `layers` takes different numbers of layers: 2 of a, 3 of b",
            "layers are blended one with one: take equally many of each model, or entries of their own",
        ),
        (
            [part("a", (0, "0-1")), part("b")],
            "b is in no entry of `layers`",
            "name it there, or take it out of `models`",
        ),
        (
            [part("a", (0, "0"), (2, "1"))],
            "an entry of `layers` names no model",
            "name one, or take the entry out",
        ),
    ],
)
def test_layers_that_cannot_be_had_are_refused(parts: list[Part], what: str, mend: str) -> None:
    with pytest.raises(InvalidError) as caught:
        stack_layers(parts, where="here")
    assert (caught.value.what, caught.value.where, caught.value.mend) == (what, "here", mend)


def test_what_a_blend_only_starts_from_may_be_in_no_entry() -> None:
    assert stack_layers([part("a", (0, "0")), part("start", blended=False)], where="").layers == ({0: 0},)


LLAMA: dict[str, JSON] = {"model_type": "llama", "num_hidden_layers": 4}


def config(base: dict[str, JSON], other: dict[str, JSON] | None = None) -> dict[str, JSON]:
    stack = stack_layers([part("a", (0, "0-1"), (1, "3")), part("b", (1, "0"), (2, "2-3"))], where="")
    return stack_config([base, base if other is None else other], stack, base=base, where="here")


def test_the_configuration_counts_the_layers_and_lists_each() -> None:
    ours: dict[str, JSON] = {**LLAMA, "layer_types": ["f", "s", "f", "s"], "hidden_size": 8}
    theirs: dict[str, JSON] = {**ours, "layer_types": ["s", "t", "u", "v"]}
    assert config(ours, theirs) == {
        "model_type": "llama",
        "num_hidden_layers": 5,
        "layer_types": ["f", "s", "s", "u", "v"],
        "hidden_size": 8,
    }


def test_the_configuration_of_the_language_model_may_stand_in_a_table() -> None:
    base: dict[str, JSON] = {"model_type": "x", "text_config": {**LLAMA}}
    assert config(base) == {"model_type": "x", "text_config": {**LLAMA, "num_hidden_layers": 5}}


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"mlp_only_layers": [1]}, "mlp_only_layers is [1]: what a layer is follows from its number"),
        ({"first_k_dense_replace": 1}, "first_k_dense_replace is 1: what a layer is follows from its number"),
        (
            {"sliding_window_pattern": 6},
            "sliding_window_pattern is 6 and there is no list layer_types: what a layer is follows from its number",
        ),
        (
            {"use_sliding_window": True},
            "use_sliding_window is true and there is no list layer_types: what a layer is follows from its number",
        ),
        ({"dense_layers_at": [3]}, "dense_layers_at is [3], which may follow from a layer's number"),
        (
            {"model_type": "gemma2"},
            "there is no list layer_types: what a layer is follows from its number",
        ),
        ({"layer_types": ["f", "f", "f"]}, "layer_types says nothing on layer 3 of a model"),
    ],
)
def test_layers_whose_number_matters_are_not_moved(said: dict[str, JSON], what: str) -> None:
    with pytest.raises(InvalidError) as caught:
        config({**LLAMA, **said})
    assert caught.value.what == what
    assert caught.value.mend == "blend such models without `layers`, each layer in its place"


def test_what_a_list_says_is_no_matter_of_numbers() -> None:
    said: dict[str, JSON] = {"layer_types": ["f"] * 4, "sliding_window_pattern": 6, "max_window_layers": 3}
    assert config({**LLAMA, **said, "first_k_dense_replace": 0, "mlp_only_layers": [], "layer_norm_eps": 1e-5})


def test_layers_of_different_kinds_are_not_blended() -> None:
    ours: dict[str, JSON] = {**LLAMA, "layer_types": ["f", "s", "f", "s"]}
    with pytest.raises(InvalidError) as caught:
        config(ours, {**LLAMA, "layer_types": ["f", "f", "f", "f"]})
    assert caught.value.what == ("layer 2 would be blended of layers of different kinds: layer_types says 's' and 'f'")


def test_a_configuration_without_a_count_of_layers_is_refused() -> None:
    with pytest.raises(InvalidError) as caught:
        config({"model_type": "llama"})
    assert caught.value.what == "the configuration has none of n_layer, n_layers, num_hidden_layers, num_layers"
