"""OFT and BOFT: what they do to a weight, and what is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.stream import CPU
from tests.workshop import DOWN, HIDDEN, INNER, QUERY, WORDS, Workshop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.effect import Applied

OFT = {"peft_type": "OFT", "lora_alpha": None, "r": 0, "peft_version": "0.21.2"}
BOFT = {"peft_type": "BOFT", "lora_alpha": None, "r": None}
ROTATION = f"{QUERY}.oft_R.weight"
FACTORS = f"{QUERY}.boft_R"
SCALES = f"{QUERY}.boft_s"
SQUARES: dict[str, torch.Tensor | None] = {FACTORS: torch.ones(1, 2, 4, 4), SCALES: torch.ones(HIDDEN, 1)}


def applied_to(applied: Applied, weight: torch.Tensor) -> torch.Tensor:
    out = weight.clone()
    applied.apply(applied.effect.load(CPU), out, out, 0)
    return out


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_a_pair_of_inputs_is_turned_by_twice_the_arc_tangent(take: Callable[..., dict[str, Applied]]) -> None:
    tensors = {ROTATION: torch.tensor([[0.5], [0.0], [0.25], [1.0]])}
    (applied,) = take(tensors, **OFT, oft_block_size=2, use_cayley_neumann=False).values()
    weight = draw(3, HIDDEN)
    found = applied_to(applied, weight)
    for pair, entry in enumerate((0.5, 0.0, 0.25, 1.0)):
        sine, cosine = math.sin(2 * math.atan(entry)), math.cos(2 * math.atan(entry))
        x, y = weight[:, 2 * pair], weight[:, 2 * pair + 1]
        assert torch.allclose(found[:, 2 * pair], cosine * x - sine * y, atol=1e-14)
        assert torch.allclose(found[:, 2 * pair + 1], sine * x + cosine * y, atol=1e-14)


def test_the_series_with_one_term_turns_nothing(take: Callable[..., dict[str, Applied]]) -> None:
    (applied,) = take({ROTATION: torch.ones(2, 6)}, **OFT, oft_block_size=4, num_cayley_neumann_terms=1).values()
    weight = draw(HIDDEN, HIDDEN)
    assert torch.equal(applied_to(applied, weight), weight)


def test_the_words_of_an_embedding_are_turned_one_by_one(take: Callable[..., dict[str, Applied]]) -> None:
    name = "model.embed_tokens.oft_embedding_R.weight"
    (applied,) = take({name: draw(2, 6)}, **OFT, oft_block_size=4, use_cayley_neumann=False).values()
    assert not applied.whole
    words = draw(WORDS, HIDDEN)
    found = applied_to(applied, words)
    assert torch.equal(found[3:4], applied_to(applied, words[3:4]))
    assert torch.allclose(found.view(WORDS, 2, 4).norm(dim=2), words.view(WORDS, 2, 4).norm(dim=2))


def test_butterflies_keep_the_norms_of_rows_but_for_their_scales(take: Callable[..., dict[str, Applied]]) -> None:
    scales = draw(HIDDEN, 1)
    tensors = {FACTORS: draw(2, 2, 4, 4), SCALES: scales}
    (applied,) = take(tensors, **BOFT, boft_block_size=4, boft_n_butterfly_factor=2).values()
    weight = draw(HIDDEN, HIDDEN)
    found = applied_to(applied, weight)
    assert torch.allclose(found.norm(dim=1), (weight * scales).norm(dim=1))
    reached = applied_to(applied, torch.eye(HIDDEN, dtype=torch.float64))
    assert bool((reached[0] != 0).all()), "two factors carry every input to every place"


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        (
            {ROTATION: torch.ones(2, 5)},
            {},
            f"tensor 'base_model.model.{ROTATION}' is [2, 5], OFT on {QUERY} needs [2, 6]",
        ),
        (
            {ROTATION: torch.ones(2, 6)},
            {"block_share": True},
            f"tensor 'base_model.model.{ROTATION}' is [2, 6], OFT on {QUERY} needs [1, 6]",
        ),
        ({ROTATION: torch.ones(2, 6)}, {"r": 2}, "oft_block_size and r are both set"),
        ({ROTATION: torch.ones(2, 6)}, {"oft_block_size": None}, "oft_block_size None is no whole number from 1"),
        ({ROTATION: torch.ones(2, 6)}, {"oft_block_size": -4}, "oft_block_size -4 is no whole number from 1"),
        (
            {ROTATION: torch.ones(2, 6)},
            {"num_cayley_neumann_terms": 0},
            "num_cayley_neumann_terms 0 is no whole number from 1",
        ),
        (
            {ROTATION: torch.ones(2, 6)},
            {"num_cayley_neumann_terms": 10**9},
            "num_cayley_neumann_terms 1000000000 is more than the 1000 that are summed",
        ),
        ({ROTATION: torch.ones(2, 6)}, {"coft": True, "eps": "0.1"}, "eps '0.1' is no number"),
        (
            {ROTATION: torch.ones(2, 6)},
            {"rank_pattern": {"q_proj": 2}},
            "rank_pattern = {'q_proj': 2} cannot be folded: this tool does not know what it means",
        ),
        (
            {f"{QUERY}.oft_embedding_R.weight": torch.ones(2, 6)},
            {},
            f"tensor 'base_model.model.{QUERY}.oft_embedding_R.weight' has no oft_R.weight beside it",
        ),
        (
            {f"{QUERY}.oft_r": torch.ones(2, 6)},
            {},
            f"tensor 'base_model.model.{QUERY}.oft_r' is no part of a OFT adapter",
        ),
        *(
            (
                {ROTATION: torch.ones(2, 6)},
                {"peft_version": version},
                f"use_cayley_neumann with peft_version {version!r} cannot be folded: PEFT 0.18 changed what it means",
            )
            for version in ("0.17.1", None, "newest", "0.", 0.21, "9" * 5000 + ".1")
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_what_does_not_fit_oft_is_refused_by_name(
    refusal: Callable[..., str], leaves: Mapping[str, torch.Tensor], config: dict[str, object], what: str
) -> None:
    assert refusal(leaves, **{**OFT, "oft_block_size": 4, **config}) == what


@pytest.mark.parametrize("version", ["0.18.0", "0.21.2.dev0@0123abc", "1.0.0rc1"])
def test_versions_with_the_series_of_today_are_fine(take: Callable[..., dict[str, Applied]], version: str) -> None:
    assert take({ROTATION: torch.ones(2, 6)}, **{**OFT, "oft_block_size": 4, "peft_version": version})


def test_the_exact_transform_has_meant_the_same_in_every_version(take: Callable[..., dict[str, Applied]]) -> None:
    config = {**OFT, "oft_block_size": 4, "peft_version": None, "use_cayley_neumann": False}
    assert take({ROTATION: torch.ones(2, 6)}, **config)


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        ({SCALES: None}, {}, f"tensor 'base_model.model.{FACTORS}' has no boft_s beside it"),
        ({FACTORS: None}, {}, f"tensor 'base_model.model.{SCALES}' has no boft_R beside it"),
        (
            {FACTORS: torch.ones(1, 2, 4, 3)},
            {},
            f"tensor 'base_model.model.{FACTORS}' is [1, 2, 4, 3], BOFT on {QUERY} needs [1, 2, 4, 4]",
        ),
        (
            {SCALES: torch.ones(HIDDEN)},
            {},
            f"tensor 'base_model.model.{SCALES}' is [8], BOFT on {QUERY} needs [8, 1]",
        ),
        (
            {FACTORS: torch.ones(2, 2, 4, 4)},
            {"boft_n_butterfly_factor": 3},
            f"tensor 'base_model.model.{FACTORS}' is [2, 2, 4, 4], BOFT on {QUERY} needs [3, 2, 4, 4]",
        ),
        (
            {FACTORS: torch.ones(3, 2, 4, 4)},
            {"boft_n_butterfly_factor": 3},
            f"tensor 'base_model.model.{FACTORS}' has blocks of 4, which 3 butterfly factors cannot make of 8 inputs",
        ),
        (
            {FACTORS: torch.ones(2, 8, 1, 1)},
            {"boft_block_size": 1, "boft_n_butterfly_factor": 2},
            f"tensor 'base_model.model.{FACTORS}' has blocks of 1, which 2 butterfly factors cannot make of 8 inputs",
        ),
        (
            {FACTORS: torch.ones(1, 2, 3, 3)},
            {"boft_block_size": 3},
            f"tensor 'base_model.model.{FACTORS}' has blocks of 3, which 1 butterfly factors cannot make of 8 inputs",
        ),
        ({}, {"boft_block_num": 2}, "boft_block_size and boft_block_num are both set"),
        (
            {},
            {"boft_block_size": 0, "boft_block_num": 4},
            f"tensor 'base_model.model.{FACTORS}' is [1, 2, 4, 4], BOFT on {QUERY} needs [1, 4, 2, 2]",
        ),
        ({}, {"use_magic": 1}, "use_magic = 1 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_boft_is_refused_by_name(
    refusal: Callable[..., str], leaves: Mapping[str, torch.Tensor], config: dict[str, object], what: str
) -> None:
    assert refusal(SQUARES | leaves, **{**BOFT, "boft_block_size": 4, **config}) == what


def test_what_peft_does_not_put_them_on_is_refused_by_name(shop: Workshop, refusal: Callable[..., str]) -> None:
    module = "transformer.h.0.attn.c_attn"
    gpt2 = shop.model({f"{module}.weight": torch.ones(HIDDEN, INNER)}, model_type="gpt2")
    leaves = {f"{module}.oft_R.weight": torch.ones(2, 6)}
    assert refusal(leaves, model=gpt2, **OFT, oft_block_size=4) == (
        f"tensor 'base_model.model.{module}.oft_R.weight' is on {module}, a Conv1D; PEFT has no OFT for those"
    )
    module = "model.embed_tokens"
    leaves = {f"{module}.boft_R": torch.ones(1, 2, 4, 4), f"{module}.boft_s": torch.ones(WORDS, 1)}
    assert refusal(leaves, **BOFT) == (
        f"tensor 'base_model.model.{module}.boft_R' is on {module}, an embedding; PEFT has no BOFT for those"
    )


def test_a_rotation_of_other_inputs_is_refused(refusal: Callable[..., str]) -> None:
    leaves = {f"{DOWN}.oft_R.weight": torch.ones(2, 6)}
    assert refusal(leaves, **OFT, oft_block_size=4) == (
        f"tensor 'base_model.model.{DOWN}.oft_R.weight' is [2, 6], OFT on {DOWN} needs [3, 6]"
    )
