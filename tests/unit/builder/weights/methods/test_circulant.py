"""C3A: what it adds to a weight, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.stream import CPU
from tests.workshop import DOWN, HIDDEN, INNER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.effect import Applied

C3A = {"peft_type": "C3A", "lora_alpha": None, "r": None}
KERNEL = f"{DOWN}.c3a_kernel"


def test_each_row_of_a_block_is_the_one_before_it_turned_by_one_place(take: Callable[..., dict[str, Applied]]) -> None:
    kernel = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (applied,) = take({KERNEL: kernel}, **C3A, block_size=4).values()
    found = torch.zeros(HIDDEN, INNER, dtype=torch.float64)
    applied.apply(applied.effect.load(CPU), found, found, 0)
    for row in range(HIDDEN):
        for column in range(INNER):
            expected = kernel[row // 4, column // 4, (column - row) % 4] / INNER
            assert torch.isclose(found[row, column], expected)


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        (
            {KERNEL: torch.ones(2, 2, 4)},
            {},
            f"tensor 'base_model.model.{KERNEL}' is [2, 2, 4], C3A on {DOWN} needs [2, 3, 4]",
        ),
        (
            {KERNEL: torch.ones(2, 3, 4)},
            {"block_size": 8},
            f"tensor 'base_model.model.{KERNEL}' has blocks of 8, which do not divide [8, 12]",
        ),
        (
            {KERNEL: torch.ones(2, 3, 4)},
            {"block_size_pattern": {"down_proj": 2}},
            f"tensor 'base_model.model.{KERNEL}' is [2, 3, 4], C3A on {DOWN} needs [4, 6, 2]",
        ),
        ({KERNEL: torch.ones(2, 3, 4)}, {"block_size": 0}, f"block_size 0 of {DOWN} is no whole number from 1"),
        (
            {KERNEL: torch.ones(2, 3, 4)},
            {"alpha": 2},
            "alpha = 2 cannot be folded: this tool does not know what it means",
        ),
        (
            {f"{DOWN}.c3a_alpha": torch.ones(1)},
            {},
            f"tensor 'base_model.model.{DOWN}.c3a_alpha' is no part of a C3A adapter",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    refusal: Callable[..., str], leaves: Mapping[str, torch.Tensor], config: dict[str, object], what: str
) -> None:
    assert refusal(leaves, **{**C3A, "block_size": 4, **config}) == what
