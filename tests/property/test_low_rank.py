"""The rank that an energy asks for: no less, no more, for any matrix."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.weights.low_rank import Cut, cut_matrix

SLACK = 1e-9  # of the squared norm: where a share is exactly at a step, either side is right


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    """Small matrices of any shape, with few or many equal and zero singular values."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    count = min(rows, columns)
    exponents = draw(st.lists(st.sampled_from([0, 0, -1, -3, -30]), min_size=count, max_size=count))
    left = torch.linalg.qr(torch.randn(rows, count, dtype=torch.float64, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(columns, count, dtype=torch.float64, generator=generator)).Q
    return (left * torch.tensor([10.0**exponent for exponent in exponents], dtype=torch.float64)) @ right.T


@settings(max_examples=150, deadline=None)
@given(matrix=matrices(), energy=st.floats(0.01, 0.9999))
def test_the_fewest_directions_that_hold_the_energy_are_kept(matrix: torch.Tensor, energy: float) -> None:
    squares = torch.linalg.svdvals(matrix) ** 2
    shares = squares.cumsum(0) / squares.sum()
    rank = cut_matrix(matrix.clone(), Cut(energy=energy)).rank
    assert 1 <= rank <= len(shares)
    assert float(shares[rank - 1]) >= energy - SLACK
    assert rank == 1 or float(shares[rank - 2]) < energy + SLACK


@settings(max_examples=100, deadline=None)
@given(matrix=matrices(), one=st.floats(0.01, 1), other=st.floats(0.01, 1))
def test_more_energy_never_takes_fewer_directions_nor_loses_more(
    matrix: torch.Tensor, one: float, other: float
) -> None:
    less, more = (cut_matrix(matrix.clone(), Cut(energy=energy)) for energy in sorted((one, other)))
    assert less.rank <= more.rank
    assert more.error <= less.error + 1e-6 * less.size


@settings(max_examples=100, deadline=None)
@given(matrix=matrices(), rank=st.integers(1, 12))
def test_a_rank_is_never_passed_and_loses_what_its_tail_holds(matrix: torch.Tensor, rank: int) -> None:
    pair = cut_matrix(matrix.clone(), Cut(rank=rank))
    values = torch.linalg.svdvals(matrix)
    assert pair.rank <= min(rank, *matrix.shape)
    assert abs(pair.error - float(values[rank:].norm())) <= 1e-6 * pair.size
