"""Effects on parts of a weight: each sees its part as a whole, whatever block it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builder.weights.effect import Block
from builder.weights.placed import Piece, Placed
from builder.weights.stream import CPU

if TYPE_CHECKING:
    from builder.weights.effect import LoadedEffect, Span


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbered:
    """Puts ``start + 10 * row + column`` in the place of each element, or adds it."""

    start: float
    additive: bool = False
    span: Span = "element"

    def load(self, _device: torch.device) -> LoadedEffect:
        return self

    def apply(self, weight: torch.Tensor, base: torch.Tensor, at: Block, scale: float) -> None:
        assert weight.shape == base.shape == (at.rows.stop - at.rows.start, at.columns.stop - at.columns.start)
        rows = torch.arange(at.rows.start, at.rows.stop, dtype=torch.float64)
        columns = torch.arange(at.columns.start, at.columns.stop, dtype=torch.float64)
        values = scale * (self.start + 10 * rows[:, None] + columns)
        weight.copy_(weight + values if self.additive else values)


TWO = Placed(
    pieces=(
        Piece(Block(slice(1, 4), slice(0, 3)), Numbered(start=100)),
        Piece(Block(slice(4, 6), slice(2, 5)), Numbered(start=200)),
    )
)


@given(first=st.integers(0, 6), last=st.integers(0, 6), left=st.integers(0, 5), right=st.integers(0, 5))
def test_any_block_gets_what_the_whole_gets(first: int, last: int, left: int, right: int) -> None:
    rows, columns = slice(min(first, last), max(first, last)), slice(min(left, right), max(left, right))
    whole = torch.zeros(7, 5, dtype=torch.float64)
    part = whole[rows, columns].clone()
    TWO.load(CPU).apply(whole, whole, Block(slice(0, 7), slice(0, 5)), 1.0)
    TWO.load(CPU).apply(part, part, Block(rows, columns), 1.0)
    assert torch.equal(part, whole[rows, columns])


def test_each_part_is_seen_from_its_own_corner_and_all_else_is_left_alone() -> None:
    whole = torch.zeros(7, 5, dtype=torch.float64)
    TWO.load(CPU).apply(whole, whole, Block(slice(0, 7), slice(0, 5)), 1.0)
    expected = torch.zeros(7, 5, dtype=torch.float64)
    expected[1:4, 0:3] = torch.tensor([[100.0, 101, 102], [110, 111, 112], [120, 121, 122]], dtype=torch.float64)
    expected[4:6, 2:5] = torch.tensor([[200.0, 201, 202], [210, 211, 212]], dtype=torch.float64)
    assert torch.equal(whole, expected)


def test_what_only_adds_is_scaled() -> None:
    at = Block(slice(0, 2), slice(0, 1))
    placed = Placed(pieces=(Piece(at, Numbered(start=1, additive=True)),))
    weight = torch.ones(2, 1, dtype=torch.float64)
    placed.load(CPU).apply(weight, weight, at, 0.5)
    assert weight.tolist() == [[1.5], [6.5]]


@pytest.mark.parametrize(
    ("spans", "span"),
    [
        (["element", "element"], "element"),
        (["element", "row"], "row"),
        (["row", "whole"], "whole"),
        ([4, "element"], "whole"),
    ],
    ids=str,
)
def test_the_most_demanding_part_decides_how_much_is_needed(spans: list[Span], span: Span) -> None:
    blocks = [Block(slice(row, row + 1), slice(0, 1)) for row in range(2)]
    pieces = tuple(Piece(at, Numbered(start=0, span=one)) for at, one in zip(blocks, spans, strict=True))
    assert Placed(pieces=pieces).span == span


@pytest.mark.parametrize("kinds", [(True, True), (True, False), (False, False)])
def test_only_parts_that_all_add_can_be_summed(kinds: tuple[bool, bool]) -> None:
    blocks = [Block(slice(row, row + 1), slice(0, 1)) for row in range(2)]
    pieces = (Piece(at, Numbered(start=0, additive=one)) for at, one in zip(blocks, kinds, strict=True))
    assert Placed(pieces=tuple(pieces)).additive is all(kinds)


def test_a_part_is_covered_once() -> None:
    assert TWO.covers(Block(slice(1, 4), slice(0, 3)))
    assert not TWO.covers(Block(slice(0, 1), slice(0, 3)))
