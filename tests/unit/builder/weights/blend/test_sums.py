"""Sums of a fixed order: near the exact sum, and equal whoever adds."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builder.weights.blend.operands import Operands
from builder.weights.blend.sums import fold, fold_rows, gram, inner_products, sums
from builder.weights.stream import Scratch
from tests.blending import HeldRows

NUMBERS = st.floats(-1e6, 1e6)


def held(tensor: torch.Tensor) -> HeldRows:
    return HeldRows(tensor=tensor, where="model.safetensors", reads=[])


@given(st.lists(NUMBERS, min_size=1, max_size=300))
def test_a_fold_is_the_sum(numbers: list[float]) -> None:
    exact = sum(map(Fraction, numbers))
    bound = 1e-15 * math.fsum(map(abs, numbers))
    assert abs(Fraction(fold(torch.tensor(numbers, dtype=torch.float64))) - exact) <= bound
    rows = torch.tensor([numbers, numbers], dtype=torch.float64)
    assert all(abs(Fraction(one) - exact) <= bound for one in fold_rows(rows).view(-1).tolist())


def test_a_fold_adds_in_halves() -> None:
    assert fold(torch.tensor([2.0**53, 1.0, 1.0], dtype=torch.float64)) == 2.0**53 + 2  # few are added exactly
    many = torch.zeros(128, dtype=torch.float64)
    many[0], many[1], many[64] = 2.0**53, 1.0, 1.0
    assert fold(many) == 2.0**53  # the last one meets the first one first, and is lost


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 33)])
def test_inner_products_of_whole_tensors_and_of_rows(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.weights.blend.operands.TILE", 100)
    generator = torch.Generator().manual_seed(1)
    some = [torch.randn(*shape, dtype=torch.float64, generator=generator) for _ in range(3)]
    operands = Operands("weight", [held(one) for one in some], None, Scratch())
    products = gram(operands, operands.vectors, 3)
    for one in range(3):
        for other in range(3):
            assert products[one][other] == pytest.approx(float((some[one] * some[other]).sum()), abs=1e-12)
    lines = inner_products(operands, some)
    torch.testing.assert_close(lines[2][0], (some[0] * some[2]).sum(1, keepdim=True), rtol=0, atol=1e-12)
    assert lines[0][2] is lines[2][0]
    found = sums(operands, lambda tile: [one.abs_() for one in operands.vectors(tile)])
    assert found == pytest.approx([float(one.abs().sum()) for one in some])
