"""TinyLoRA: what is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from tests.workshop import DOWN, HIDDEN, INNER, QUERY

if TYPE_CHECKING:
    from tests.unit.builder.weights.methods.conftest import Refusal, Take

TINY = {"peft_type": "TINYLORA", "lora_alpha": None, "r": 2, "u": 3, "projection_seed": 9, "save_projection": True}


def projection(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.normal(0.0, 1 / math.sqrt(2), (3, 2, 2), generator=generator)


LEAVES = {
    f"{QUERY}.tinylora_A": torch.ones(2, HIDDEN),
    f"{QUERY}.tinylora_B": torch.ones(HIDDEN, 2),
    f"{QUERY}.tinylora_P": projection(9),
    f"{DOWN}.tinylora_A": torch.ones(2, INNER),
    f"{DOWN}.tinylora_B": torch.ones(HIDDEN, 2),
    f"{DOWN}.tinylora_P": projection(10),
    "tinylora_v.0": torch.ones(3),
    "tinylora_v.1": torch.ones(3),
}


def test_the_projections_tell_the_order_of_the_modules(take: Take) -> None:
    swapped = {f"{QUERY}.tinylora_P": projection(10), f"{DOWN}.tinylora_P": projection(9)}
    for leaves, numbers in ((LEAVES, ["0", "1"]), (LEAVES | swapped, ["1", "0"])):
        effects = take(leaves, **TINY)
        used = [effects[f"{module}.weight"].effect.numbers.info.name for module in (QUERY, DOWN)]
        assert used == [f"base_model.model.tinylora_v.{number}" for number in numbers]


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        (
            {f"{QUERY}.tinylora_P": None},
            {},
            f"tensor 'base_model.model.{QUERY}.tinylora_A' has no tinylora_P beside it",
        ),
        (
            {},
            {"u": 4},
            f"tensor 'base_model.model.{QUERY}.tinylora_P' is [3, 2, 2], TINYLORA on {QUERY} needs [4, 2, 2]",
        ),
        (
            {f"{QUERY}.tinylora_B": torch.ones(INNER, 2)},
            {},
            f"tensor 'base_model.model.{QUERY}.tinylora_B' is [12, 2], TINYLORA on {QUERY} needs [8, 2]",
        ),
        ({"tinylora_v.1": None}, {}, "the adapter has 1 vectors tinylora_v where 2 are used"),
        ({}, {"weight_tying": 1.0}, "the adapter has 2 vectors tinylora_v where 1 are used"),
        ({}, {"weight_tying": 1.5}, "weight_tying = 1.5 is not from 0 to 1"),
        (
            {f"{QUERY}.tinylora_P": projection(11)},
            {},
            (
                f"tensor 'base_model.model.{QUERY}.tinylora_P' does not tell which of the vectors tinylora_v goes "
                "with it"
            ),
        ),
        (
            {f"{DOWN}.tinylora_P": projection(9)},
            {},
            (f"tensor 'base_model.model.{DOWN}.tinylora_P' does not tell which of the vectors tinylora_v goes with it"),
        ),
        ({}, {"rotation": True}, "rotation = True cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    change: dict[str, torch.Tensor | None], config: dict[str, object], what: str, refusal: Refusal
) -> None:
    assert refusal(LEAVES | change, **TINY | config) == what
