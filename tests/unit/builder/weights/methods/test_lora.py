"""LoRA's switches: what PEFT merges is merged, all else is refused by name with its reason and a mend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from builder.weights.methods.block_diagonal import BlockDiagonal
from builder.weights.methods.lora import LowRank, Shift, WeightDecomposed
from registry.errors import InvalidError
from tests.workshop import DOWN, HIDDEN, INNER, QUERY, WORDS, Workshop, llama

if TYPE_CHECKING:
    from collections.abc import Callable

A, B = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"
MAGNITUDE, BIAS = f"{QUERY}.lora_magnitude_vector", f"{QUERY}.lora_B.bias"
FACTORS = {A: torch.ones(2, HIDDEN), B: torch.ones(HIDDEN, 2)}
RANK = {"r": 2, "lora_alpha": 4}
PREFIX = "base_model.model."


def test_dora_scales_rows_to_their_magnitudes(take: Callable[..., Any], change: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(1)
    down, up = torch.randn(2, HIDDEN, generator=generator), torch.randn(HIDDEN, 2, generator=generator)
    magnitude = torch.randn(HIDDEN, generator=generator)
    (applied,) = take({A: down, B: up, MAGNITUDE: magnitude}, use_dora=True, **RANK).values()
    assert isinstance(applied.effect, WeightDecomposed)
    weight = torch.randn(HIDDEN, HIDDEN, generator=generator, dtype=torch.float64)
    moved = weight + 2 * up.double() @ down.double()
    expected = moved * (magnitude.double() / moved.norm(dim=1))[:, None]
    assert torch.allclose(change(applied.effect, weight), expected, rtol=1e-14)
    assert torch.equal(change(applied.effect, weight, rows=slice(3, 5)), change(applied.effect, weight)[3:5])


def test_the_bias_of_b_is_added_to_the_bias(
    take: Callable[..., Any], change: Callable[..., Any], shop: Workshop
) -> None:
    model = shop.model(llama() | {f"{QUERY}.bias": torch.ones(HIDDEN)})
    bias = torch.arange(HIDDEN, dtype=torch.float32)
    found = take({**FACTORS, BIAS: bias}, model=model, lora_bias=True, **RANK)
    assert {name: type(applied.effect) for name, applied in found.items()} == {
        f"{QUERY}.weight": LowRank,
        f"{QUERY}.bias": Shift,
    }
    effect = found[f"{QUERY}.bias"].effect
    assert effect.additive
    row = torch.ones(1, HIDDEN, dtype=torch.float64)
    assert torch.equal(change(effect, row), 1 + 2 * bias.double()[None])
    assert torch.equal(change(effect, row, columns=slice(2, 5)), 1 + 2 * bias.double()[None, 2:5])


@pytest.mark.parametrize("side", ["a", "b"])
def test_blocks_of_one_factor_lie_on_its_diagonal(
    take: Callable[..., Any], change: Callable[..., Any], side: str
) -> None:
    down = torch.randn(4, INNER // 2 if side == "a" else INNER)
    up = torch.randn(HIDDEN, 2 if side == "b" else 4)
    blocks = {f"target_modules_bd_{side}": ["down"], "nblocks": 2, "match_strict": True}
    leaves = {f"{DOWN}.lora_A.weight": down, f"{DOWN}.lora_B.weight": up}
    (applied,) = take(leaves, use_bdlora=blocks, r=4, lora_alpha=4).values()
    assert isinstance(applied.effect, BlockDiagonal)
    whole = [down.double(), up.double()]
    column = whole[0 if side == "a" else 1]
    whole[0 if side == "a" else 1] = torch.block_diag(*column.chunk(2))
    weight = torch.zeros(HIDDEN, INNER, dtype=torch.float64)
    assert torch.equal(change(applied.effect, weight), whole[1] @ whole[0])


def test_what_training_left_behind_is_passed_over(take: Callable[..., Any]) -> None:
    sampler = {f"{QUERY}.lora_monteclora_sampler.std_prior": torch.ones(2), f"{QUERY}.lora_velora_embed": torch.ones(4)}
    (applied,) = take({**FACTORS, **sampler}, monteclora_config={"num_samples": 8}, **RANK).values()
    assert isinstance(applied.effect, LowRank)


@pytest.mark.parametrize("start", [None, True, False, "gaussian", "Gaussian", "eva", "orthogonal", "mica"])
def test_starts_that_leave_the_base_alone_are_fine(take: Callable[..., Any], start: object) -> None:
    assert take(FACTORS, init_lora_weights=start, **RANK).keys() == {f"{QUERY}.weight"}


MOVED = "it changed its base when training began"
CONVERT = "save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA adapter"
PLAIN = "train a plain LORA adapter"
TOGETHER = "save weights and configuration together"
NO_PLACE = "has no place in a LORA adapter of this configuration"
LOFTQ = "its base was rounded to few bits when training began, and the adapter makes up for that"
BLOCKS = {"target_modules_bd_b": ["q_proj"], "nblocks": 2}
REFUSED: list[tuple[dict[str, object], dict[str, torch.Tensor | None], str, str]] = [
    *(
        ({"init_lora_weights": start}, {}, f"init_lora_weights = {start!r} cannot be folded: {MOVED}", CONVERT)
        for start in ("pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "lora_ga")
    ),
    (
        {"init_lora_weights": "loftq"},
        {},
        f"init_lora_weights = 'loftq' cannot be folded: {LOFTQ}",
        "merge it with PEFT into the base that it was saved with, and import the result",
    ),
    (
        {"init_lora_weights": "magic"},
        {},
        "init_lora_weights = 'magic' cannot be folded: this tool does not know what it means",
        PLAIN,
    ),
    (
        {"alora_invocation_tokens": [1]},
        {},
        "alora_invocation_tokens = [1] cannot be folded: it acts on some tokens only, so no single weight holds it",
        PLAIN,
    ),
    (
        {"arrow_config": {"top_k": 3}},
        {},
        (
            "arrow_config = {'top_k': 3} cannot be folded: it chooses among adapters at run time, "
            "so no single weight holds it"
        ),
        PLAIN,
    ),
    (
        {"kasa_config": {"beta": 1}},
        {},
        (
            "kasa_config = {'beta': 1} cannot be folded: its base was cut down by a float32 SVD before training, "
            "which comes out otherwise elsewhere"
        ),
        PLAIN,
    ),
    (
        {"layer_replication": [[0, 2], [0, 2]]},
        {},
        (
            "layer_replication = [[0, 2], [0, 2]] cannot be folded: its base has some layers twice, "
            "and the adapter treats each copy in its own way"
        ),
        PLAIN,
    ),
    (
        {"use_qalora": True},
        {A: torch.ones(2, HIDDEN // 2)},
        "use_qalora = True cannot be folded: it pools its inputs by groups, and PEFT cannot merge that",
        PLAIN,
    ),
    (
        {"use_dora": True},
        {},
        f"tensor '{PREFIX}{A}' has no lora_magnitude_vector beside it",
        "save the adapter again; it is incomplete",
    ),
    (
        {"use_dora": True},
        {MAGNITUDE: torch.ones(3)},
        f"tensor '{PREFIX}{MAGNITUDE}' is [3], LORA on {QUERY} needs [8]",
        "fold it into the model that it was trained on",
    ),
    ({}, {MAGNITUDE: torch.ones(HIDDEN)}, f"tensor '{PREFIX}{MAGNITUDE}' {NO_PLACE}", TOGETHER),
    ({}, {BIAS: torch.ones(HIDDEN)}, f"tensor '{PREFIX}{BIAS}' {NO_PLACE}", TOGETHER),
    (
        {},
        {f"{QUERY}.lora_embedding_B": torch.ones(HIDDEN, 2)},
        f"tensor '{PREFIX}{QUERY}.lora_embedding_B' {NO_PLACE}",
        TOGETHER,
    ),
    (
        {},
        {
            A: None,
            B: None,
            f"{QUERY}.lora_embedding_A": torch.ones(2, HIDDEN),
            f"{QUERY}.lora_embedding_B": torch.ones(HIDDEN, 2),
        },
        f"tensor '{PREFIX}{QUERY}.lora_embedding_A' is of another form than its module",
        "save the adapter again",
    ),
    (
        {"lora_bias": True},
        {},
        f"tensor '{PREFIX}{A}' has no lora_B.bias beside it",
        "save the adapter again; it is incomplete",
    ),
    (
        {"lora_bias": True},
        {BIAS: torch.ones(HIDDEN)},
        f"tensor '{PREFIX}{A}' changes {QUERY}.bias, which the model has not",
        "train it without a bias, or fold it into a model whose modules have one",
    ),
    (
        {"use_bdlora": BLOCKS},
        {},
        f"tensor '{PREFIX}{B}' is [8, 2], LORA on {QUERY} needs [8, 1]",
        "fold it into the model that it was trained on",
    ),
    (
        {"use_bdlora": {**BLOCKS, "nblocks": 3}},
        {},
        f"use_bdlora cuts {QUERY} into 3 blocks, which do not come out even",
        "save the adapter again",
    ),
    (
        {"use_bdlora": {**BLOCKS, "target_modules_bd_a": ["attn"]}},
        {},
        f"use_bdlora makes both factors of {QUERY} block-diagonal",
        "save the adapter again",
    ),
    (
        {"use_bdlora": BLOCKS, "use_dora": True},
        {},
        "use_bdlora together with use_dora is nothing that PEFT has",
        "save the adapter again",
    ),
    (
        {"use_dora": True, "lora_bias": True},
        {},
        "use_dora together with lora_bias is nothing that PEFT has",
        "save the adapter again",
    ),
    ({"use_bdlora": True}, {}, "use_bdlora = True is not what PEFT saves", "save the adapter again"),
    (
        {"use_bdlora": {"nblocks": "2"}},
        {},
        "use_bdlora = {'nblocks': '2'} is not what PEFT saves",
        "save the adapter again",
    ),
    (
        {"use_bdlora": {"target_modules_bd_a": "q_proj"}},
        {},
        "use_bdlora = {'target_modules_bd_a': 'q_proj'} is not what PEFT saves",
        "save the adapter again",
    ),
]


@pytest.mark.parametrize(("config", "change", "what", "mend"), REFUSED)
def test_what_cannot_be_folded_is_refused_by_name(
    take: Callable[..., Any],
    config: dict[str, object],
    change: dict[str, torch.Tensor | None],
    what: str,
    mend: str,
) -> None:
    with pytest.raises(InvalidError) as caught:
        take(FACTORS | change, **RANK | config)
    assert (caught.value.what, caught.value.mend) == (what, mend)


def test_qa_lora_on_a_model_that_is_not_quantised_is_plain(take: Callable[..., Any]) -> None:
    (applied,) = take(FACTORS, use_qalora=True, qalora_group_size=4, **RANK).values()
    assert isinstance(applied.effect, LowRank)


def test_an_embedding_takes_factors_of_its_own_form(take: Callable[..., Any], refusal: Callable[..., str]) -> None:
    module = "model.embed_tokens"
    leaves = {f"{module}.lora_embedding_A": torch.ones(2, WORDS), f"{module}.lora_embedding_B": torch.ones(HIDDEN, 2)}
    ((name, applied),) = take(leaves, **RANK).items()
    assert (name, applied.transposed) == (f"{module}.weight", True)
    leaves = {f"{module}.lora_A.weight": torch.ones(2, WORDS), f"{module}.lora_B.weight": torch.ones(HIDDEN, 2)}
    found = refusal(leaves, **RANK)
    assert found == f"tensor '{PREFIX}{module}.lora_A.weight' is of another form than its module"
