"""LoKr: a Kronecker product whose matrices are whole or factored; what does not fit is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.workshop import DOWN, HIDDEN, INNER

if TYPE_CHECKING:
    from collections.abc import Callable

GENERATOR = torch.Generator().manual_seed(5)
TYPE = {"peft_type": "LOKR", "r": 2}
WHOLE = {
    f"{DOWN}.lokr_w1": torch.randn(2, 3, generator=GENERATOR),
    f"{DOWN}.lokr_w2": torch.randn(HIDDEN // 2, INNER // 3, generator=GENERATOR),
}
FACTORED = {
    f"{DOWN}.lokr_w1_a": torch.randn(2, 2, generator=GENERATOR),
    f"{DOWN}.lokr_w1_b": torch.randn(2, 3, generator=GENERATOR),
    f"{DOWN}.lokr_w2_a": torch.randn(HIDDEN // 2, 2, generator=GENERATOR),
    f"{DOWN}.lokr_w2_b": torch.randn(2, INNER // 3, generator=GENERATOR),
}


@pytest.mark.parametrize("leaves", [WHOLE, FACTORED], ids=["whole", "factored"])
def test_a_part_of_the_product_is_added(
    take: Callable[..., Any], change: Callable[..., Any], leaves: dict[str, torch.Tensor]
) -> None:
    ((name, applied),) = take(leaves, **TYPE, alpha=5).items()
    weight = torch.randn(HIDDEN, INNER, dtype=torch.float64)
    factors = [tensor.double() for tensor in leaves.values()]
    left, right = factors if len(factors) == 2 else (factors[0] @ factors[1], factors[2] @ factors[3])
    expected = weight + 5 / 2 * torch.kron(left, right)
    assert name == f"{DOWN}.weight"
    assert torch.allclose(change(applied.effect, weight), expected, rtol=1e-13)
    part = change(applied.effect, weight, rows=slice(2, 7), columns=slice(1, 10))
    assert torch.allclose(part, expected[2:7, 1:10], rtol=1e-13)


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        ({"w1": None}, {}, "tensor '{0}w2' has no lokr_w1_a beside it"),
        ({"w2": None, "w2_a": torch.ones(4, 2)}, {}, "tensor '{0}w1' has no lokr_w2_b beside it"),
        ({"w1_a": torch.ones(2, 2)}, {}, "tensor '{0}w1_a' has no place in a LOKR adapter of this configuration"),
        ({"t2": torch.ones(2, 2, 1, 1)}, {}, "tensor '{0}t2' has no place in a LOKR adapter of this configuration"),
        (
            {"w1": torch.ones(4, 3)},
            {},
            f"tensor '{{0}}w1' and its other factor make [16, 12]; {DOWN}.weight is BF16 [8, 12]",
        ),
        ({"w1": torch.ones(6)}, {}, "tensor '{0}w1' is [6], which is no matrix"),
        ({"w2": torch.tensor(1.0)}, {}, "tensor '{0}w2' is [], which is no matrix"),
        (
            {"w1": None, "w1_a": torch.ones(2, 3), "w1_b": torch.ones(3, 3)},
            {},
            f"tensor '{{0}}w1_a' is [2, 3], LOKR on {DOWN} needs [2, 2]",
        ),
        (
            {"w1": None, "w1_a": torch.ones(2, 2), "w1_b": torch.ones(3, 3)},
            {},
            f"tensor '{{0}}w1_b' is [3, 3], LOKR on {DOWN} needs [2, 3]",
        ),
        ({}, {"r": 0}, f"r 0 of {DOWN} is no whole number from 1"),
        ({}, {"use_magic": 1}, "use_magic = 1 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused(
    refusal: Callable[..., str], change: dict[str, torch.Tensor | None], config: dict[str, object], what: str
) -> None:
    leaves = WHOLE | {f"{DOWN}.lokr_{leaf}": tensor for leaf, tensor in change.items()}
    assert refusal(leaves, **TYPE | config) == what.format(f"base_model.model.{DOWN}.lokr_")
