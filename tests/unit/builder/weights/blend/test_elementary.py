"""The elementary functions against Python's, to a few units in the last place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builder.weights.blend.elementary import arccos, cosine, exponential, logarithm, sine
from builder.weights.stream import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable


def of(function: Callable[[torch.Tensor], torch.Tensor], value: float) -> float:
    return float(function(torch.tensor([value], dtype=torch.float64)))


@given(st.floats(-4000, 4000))
def test_sine_and_cosine(angle: float) -> None:
    assert of(sine, angle) == pytest.approx(math.sin(angle), rel=0, abs=4e-16)
    assert of(cosine, angle) == pytest.approx(math.cos(angle), rel=0, abs=1e-15 * max(1.0, abs(angle)))


@given(st.floats(-1, 1) | st.floats(1e-18, 1).map(lambda gap: 1 - gap) | st.floats(1e-18, 1).map(lambda gap: gap - 1))
def test_arccos(value: float) -> None:
    assert of(arccos, value) == pytest.approx(math.acos(value), rel=1e-15, abs=0)


@given(st.floats(-700, 0))
def test_exponential(value: float) -> None:
    found = exponential(torch.tensor([value], dtype=torch.float64), Scratch())
    assert float(found) == pytest.approx(math.exp(value), rel=1e-15)


@given(st.floats(1e-8, 1e8) | st.floats(-1e-3, 1e-3).map(lambda gap: 1 + gap))
def test_logarithm(value: float) -> None:
    found = logarithm(torch.tensor([value], dtype=torch.float64), Scratch())
    assert float(found) == pytest.approx(math.log(value), rel=1e-15, abs=1e-300)


def test_the_ends() -> None:
    ends = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    assert arccos(ends).tolist() == [0.0, pytest.approx(math.pi / 2, rel=1e-15), math.pi]
    assert sine(torch.tensor([0.0], dtype=torch.float64)).tolist() == [0.0]
    assert exponential(torch.tensor([0.0, -1e9], dtype=torch.float64), Scratch()).tolist() == pytest.approx(
        [1.0, math.exp(-708)], rel=1e-14
    )
    assert logarithm(torch.tensor([1.0, 2.0], dtype=torch.float64), Scratch()).tolist() == [0.0, math.log(2)]


def test_a_number_comes_out_the_same_alone_and_among_others() -> None:
    values = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    for function in (sine, cosine, lambda some: arccos(some / 3)):
        together = function(values)
        assert all(float(function(values[one : one + 1])) == float(together[one]) for one in range(0, 1001, 37))
