"""HiRA: what it does to a weight, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.stream import CPU
from tests.workshop import DOWN, HIDDEN, INNER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.effect import Applied

HIRA = {"peft_type": "HIRA", "lora_alpha": None, "r": 2}
A, B = f"{DOWN}.hira_A", f"{DOWN}.hira_B"
PLAIN: dict[str, torch.Tensor | None] = {A: torch.ones(2, INNER), B: torch.full((HIDDEN, 2), 0.5)}


def test_it_multiplies_the_base_and_not_what_others_made_of_it(take: Callable[..., dict[str, Applied]]) -> None:
    (applied,) = take(PLAIN, **HIRA).values()
    base, weight = torch.full((HIDDEN, INNER), 4.0, dtype=torch.float64), torch.ones(HIDDEN, INNER, dtype=torch.float64)
    loaded = applied.effect.load(CPU)
    applied.apply(loaded, weight, base, 0)
    assert torch.equal(weight, torch.full_like(weight, 5.0))
    replace(applied, scale=-0.5).apply(loaded, weight, base, 0)
    assert torch.equal(weight, torch.full_like(weight, 3.0))


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        ({A: None}, {}, f"tensor 'base_model.model.{B}' has no hira_A beside it"),
        ({B: None}, {}, f"tensor 'base_model.model.{A}' has no hira_B beside it"),
        ({B: torch.ones(HIDDEN, 3)}, {}, f"tensor 'base_model.model.{B}' is [8, 3], HIRA on {DOWN} needs [8, 2]"),
        ({A: torch.ones(INNER)}, {}, f"tensor 'base_model.model.{A}' is [12], HIRA on {DOWN} needs [12, 12]"),
        (
            {A: torch.ones(2, HIDDEN)},
            {},
            f"tensor 'base_model.model.{A}' and its other factor make [8, 8]; {DOWN}.weight is BF16 [8, 12]",
        ),
        ({}, {"use_dora": True}, "use_dora = True cannot be folded: this tool does not know what it means"),
        (
            {f"{DOWN}.lora_A.weight": torch.ones(2, INNER)},
            {},
            f"tensor 'base_model.model.{DOWN}.lora_A.weight' is on {DOWN}.lora_A, which the model has not",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    refusal: Callable[..., str], leaves: Mapping[str, torch.Tensor], config: dict[str, object], what: str
) -> None:
    assert refusal(PLAIN | leaves, **{**HIRA, **config}) == what
