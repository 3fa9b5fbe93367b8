"""Effects on parts of a weight: of stacked experts, each has its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from builder.weights.effect import Block

if TYPE_CHECKING:
    import torch

    from builder.weights.effect import Effect, LoadedEffect, Span

__all__ = ["LoadedPieces", "Piece", "Placed"]


class Piece(NamedTuple):
    """An effect and the part of the weight that it sees as a whole."""

    at: Block
    effect: Effect


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Several effects, each on its own part of one weight; what no part covers stays as it was.

    Attributes:
        pieces: The parts; they have no element in common.
    """

    pieces: tuple[Piece, ...]

    @property
    def additive(self) -> bool:
        """Whether all of them only add."""
        return all(piece.effect.additive for piece in self.pieces)

    @property
    def span(self) -> Span:
        """What the most demanding of them must see at once."""
        spans = {piece.effect.span for piece in self.pieces}
        if spans <= {"element"}:
            return "element"
        return "row" if spans <= {"element", "row"} else "whole"

    def covers(self, at: Block) -> bool:
        """Whether a part is exactly this one."""
        return any(piece.at == at for piece in self.pieces)

    def load(self, device: torch.device) -> LoadedEffect:
        """Read what the arithmetic needs.

        Raises:
            InvalidError: A tensor of an effect holds NaN or an infinity.
            OSError: A file cannot be read.
        """
        return LoadedPieces(pieces=tuple((piece.at, piece.effect.load(device)) for piece in self.pieces))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPieces:
    """The same in memory."""

    pieces: tuple[tuple[Block, LoadedEffect], ...]

    def apply(self, weight: torch.Tensor, base: torch.Tensor, at: Block, scale: float) -> None:
        """Change those parts of a block that an effect covers."""
        for part, effect in self.pieces:
            rows, columns = _common(part.rows, at.rows), _common(part.columns, at.columns)
            if rows.start < rows.stop and columns.start < columns.stop:
                here = _from(rows, at.rows.start), _from(columns, at.columns.start)
                inside = Block(_from(rows, part.rows.start), _from(columns, part.columns.start))
                effect.apply(weight[here], base[here], inside, scale)


def _common(one: slice, other: slice) -> slice:
    """What two ranges have in common; its end may lie before its start."""
    return slice(max(one.start, other.start), min(one.stop, other.stop))


def _from(part: slice, start: int) -> slice:
    return slice(part.start - start, part.stop - start)
