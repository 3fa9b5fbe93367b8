from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.stages.module_names import spell_modules

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "input_layernorm")


def llama(layers: int) -> list[str]:
    inside = [f"model.layers.{layer}.{kind}" for layer in range(layers) for kind in KINDS]
    return ["model", "model.embed_tokens", "model.layers", *inside, "lm_head"]


def gpt2(layers: int) -> list[str]:
    return [
        f"transformer.h.{layer}.{kind}"
        for layer in range(layers)
        for kind in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]


def chosen(names: list[str], *endings: str, layers: str = "") -> list[str]:
    return [name for name in names if name.endswith(endings) and (not layers or name.split(".")[2] in layers)]


def test_all_of_a_kind_is_spelt_by_its_ending() -> None:
    names = llama(3)
    assert spell_modules(chosen(names, "q_proj", "up_proj"), names) == (["q_proj", "up_proj"], None)


def test_some_layers_are_spelt_as_layers() -> None:
    names = llama(12)
    assert spell_modules(chosen(names, "q_proj", "k_proj", layers="13"), names) == (["k_proj", "q_proj"], [1, 3])


def test_an_ending_grows_until_nothing_else_has_it() -> None:
    names = gpt2(2)
    assert spell_modules(chosen(names, "attn.c_proj"), names) == (["attn.c_proj"], None)
    assert spell_modules(chosen(names, "c_proj"), names) == (["c_proj"], None)


def test_what_no_ending_can_say_is_spelt_in_full() -> None:
    names = llama(2)
    some = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"]
    assert spell_modules(some, names) == (some, None)


def test_outside_of_the_layers() -> None:
    names = llama(2)
    assert spell_modules(["lm_head", *chosen(names, "q_proj")], names) == (["lm_head", "q_proj"], None)


def matches(name: str, targets: list[str], layers: list[int] | None) -> bool:
    """PEFT's rule, for names with one number in them."""
    if name in targets:
        return True
    number = next((int(part) for part in name.split(".") if part.isdecimal()), None)
    return any(name.endswith(f".{target}") for target in targets) and (layers is None or number in layers)


@pytest.mark.parametrize("names", [llama(3), gpt2(3)])
@given(data=st.data())
def test_the_spelling_means_the_choice(names: list[str], data: st.DataObject) -> None:
    leaves = [name for name in names if name.count(".") > 2]
    some = data.draw(st.lists(st.sampled_from(leaves), min_size=1, unique=True))
    targets, layers = spell_modules(some, names)
    assert {name for name in names if matches(name, targets, layers)} == set(some)
