"""DeLoRA: what it adds to a weight, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.stream import CPU
from tests.workshop import DOWN, HIDDEN, INNER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.effect import Applied

DELORA = {"peft_type": "DELORA", "lora_alpha": None, "r": 2}
A, B, LAMBDA, NORMS = (f"{DOWN}.delora_{name}" for name in ("A", "B", "lambda", "w_norm"))
PLAIN: dict[str, torch.Tensor | None] = {
    A: torch.eye(2, INNER),
    B: torch.eye(HIDDEN, 2),
    LAMBDA: torch.tensor([6.0]),
    NORMS: torch.full((INNER,), 5.0),
}


def test_only_directions_of_the_factors_count(take: Callable[..., dict[str, Applied]]) -> None:
    (applied,) = take(PLAIN | {A: 7 * torch.eye(2, INNER), B: -0.1 * torch.eye(HIDDEN, 2)}, **DELORA).values()
    found = torch.zeros(HIDDEN, INNER, dtype=torch.float64)
    applied.apply(applied.effect.load(CPU), found, found, 0)
    assert torch.allclose(found, -15 * torch.eye(HIDDEN, INNER, dtype=torch.float64) * (torch.arange(INNER) < 2))


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        ({NORMS: None}, {}, f"tensor 'base_model.model.{A}' has no delora_w_norm beside it"),
        ({LAMBDA: None}, {}, f"tensor 'base_model.model.{A}' has no delora_lambda beside it"),
        ({B: None}, {}, f"tensor 'base_model.model.{A}' has no delora_B beside it"),
        ({NORMS: torch.ones(HIDDEN)}, {}, f"tensor 'base_model.model.{NORMS}' is [8], DELORA on {DOWN} needs [12]"),
        ({LAMBDA: torch.ones(2)}, {}, f"tensor 'base_model.model.{LAMBDA}' is [2], DELORA on {DOWN} needs [1]"),
        (
            {},
            {"rank_pattern": {"down_proj": 3}},
            f"tensor 'base_model.model.{A}' is [2, 12], DELORA on {DOWN} needs [3, 12]",
        ),
        ({}, {"use_dora": True}, "use_dora = True cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    refusal: Callable[..., str], leaves: Mapping[str, torch.Tensor], config: dict[str, object], what: str
) -> None:
    assert refusal(PLAIN | leaves, **{**DELORA, **config}) == what
