"""GraLoRA: blocks with a LoRA of their own, and one beside them; what does not fit is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.workshop import DOWN, HIDDEN, INNER

if TYPE_CHECKING:
    from collections.abc import Callable

GENERATOR = torch.Generator().manual_seed(5)
TYPE = {"peft_type": "GRALORA", "r": 4, "gralora_k": 2}
LEAVES = {
    f"{DOWN}.gralora_A": torch.randn(2, INNER // 2, 4, generator=GENERATOR),
    f"{DOWN}.gralora_B": torch.randn(2, 4, HIDDEN // 2, generator=GENERATOR),
}
GENERAL = {
    f"{DOWN}.gralora_A_general.weight": torch.randn(3, INNER, generator=GENERATOR),
    f"{DOWN}.gralora_B_general.weight": torch.randn(HIDDEN, 3, generator=GENERATOR),
}


@pytest.mark.parametrize("beside", [0, 3])
def test_a_part_of_every_block_is_added(take: Callable[..., Any], change: Callable[..., Any], beside: int) -> None:
    leaves = LEAVES | (GENERAL if beside else {})
    ((name, applied),) = take(leaves, **TYPE, alpha=5, hybrid_r=beside).items()
    down, up = (tensor.double() for tensor in LEAVES.values())
    delta = torch.zeros(HIDDEN, INNER, dtype=torch.float64)
    for i in range(2):
        for j in range(2):
            block = up[i, 2 * j : 2 * j + 2].T @ down[j, :, 2 * i : 2 * i + 2].T
            delta[4 * i : 4 * i + 4, 6 * j : 6 * j + 6] = block
    if beside:
        across, along = (tensor.double() for tensor in GENERAL.values())
        delta += along @ across
    weight = torch.randn(HIDDEN, INNER, dtype=torch.float64)
    expected = weight + 5 / (4 + beside) * delta
    assert name == f"{DOWN}.weight"
    assert torch.allclose(change(applied.effect, weight), expected, rtol=1e-13)
    part = change(applied.effect, weight, rows=slice(3, 5), columns=slice(5, 12))
    assert torch.allclose(part, expected[3:5, 5:12], rtol=1e-13)


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        ({"gralora_B": None}, {}, "tensor '{0}A' has no gralora_B beside it"),
        ({"gralora_A": torch.ones(2, 6, 2)}, {}, f"tensor '{{0}}A' is [2, 6, 2], GRALORA on {DOWN} needs [2, 6, 4]"),
        ({"gralora_A": torch.ones(12, 4)}, {}, f"tensor '{{0}}A' is [12, 4], GRALORA on {DOWN} needs [2, 6, 4]"),
        (
            {"gralora_B": torch.ones(2, 4, 6)},
            {},
            f"tensor '{{0}}A' and its other factor make [12, 12]; {DOWN}.weight is BF16 [8, 12]",
        ),
        (
            {"gralora_A_general.weight": torch.ones(3, INNER)},
            {},
            "tensor '{0}A_general.weight' has no place in a GRALORA adapter of this configuration",
        ),
        ({}, {"hybrid_r": 3}, "tensor '{0}A' has no gralora_A_general.weight beside it"),
        ({}, {"hybrid_r": -1}, "hybrid_r -1 is no whole number from 1"),
        ({}, {"gralora_k": 3}, f"gralora_k = 3 divides not all of r = 4 and [8, 12] of {DOWN}"),
        ({}, {"use_magic": 1}, "use_magic = 1 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused(
    refusal: Callable[..., str], change: dict[str, torch.Tensor | None], config: dict[str, object], what: str
) -> None:
    leaves = LEAVES | {f"{DOWN}.{leaf}": tensor for leaf, tensor in change.items()}
    assert refusal(leaves, **TYPE | config) == what.format(f"base_model.model.{DOWN}.gralora_")
