"""What is done to a weight, and a weight with it done: float64 all the way, rounded once.

An effect sees its weight as the module does, ``[out, in]``; where the file has it the other way round (an embedding,
transformers' Conv1D), it is given a transposed view. A tensor of one dimension is one row, stacked matrices are one
tall matrix. The effects of several adapters act in the order given, all before the one rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

import torch

from builder.weights.rounding import round_once
from builder.weights.stream import Stored, not_finite
from registry.safetensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.weights.stream import Scratch
    from registry.safetensors import TensorSpec

__all__ = ["Applied", "Block", "Changed", "Effect", "LoadedEffect", "Span"]

Span: TypeAlias = Literal["element", "row", "whole"] | int
"""How much of a weight an effect must see at once: any part, whole rows of ``[out, in]``, or all of it; a number means
that many rows together, counted from the first one on, and any of their columns."""


class Block(NamedTuple):
    """The part of a weight that is worked on, as the module sees it: rows of ``out``, columns of ``in``."""

    rows: slice
    columns: slice


class Effect(Protocol):
    """What an adapter does to one weight. Names its tensors, without their bytes."""

    @property
    def additive(self) -> bool:
        """Whether it adds something that does not depend on the weight, so that effects may be summed in any order."""
        ...

    @property
    def span(self) -> Span:
        """How much of the weight it must see at once."""
        ...

    def load(self, device: torch.device) -> LoadedEffect:
        """Read what the arithmetic needs.

        Raises:
            InvalidError: A tensor of it holds NaN or an infinity.
            OSError: A file cannot be read.
        """
        ...


class LoadedEffect(Protocol):
    """An effect whose tensors are in memory, in float64."""

    def apply(self, weight: torch.Tensor, base: torch.Tensor, at: Block, scale: float) -> None:
        """Change a block in place.

        Args:
            weight: float64, shape of the block, what earlier effects made of it; maybe a transposed view.
            base: float64, the same block as it was before any effect; may be the same memory as ``weight``.
            at: Where in the whole weight the block is.
            scale: Factor of what an additive effect adds; 1 for all others.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """An effect on a stored weight.

    Attributes:
        effect: What is done.
        scale: How much of it: 1 as it was trained, 0.5 half of the change, -1 the opposite; no unit.
        transposed: The file has the weight as ``[in, out]``.
    """

    effect: Effect
    scale: float = 1.0
    transposed: bool = False

    @property
    def whole(self) -> bool:
        """Whether all of the weight is needed at once."""
        return self.effect.span == "whole" or (self.effect.span == "row" and self.transposed)

    @property
    def rows(self) -> int:
        """How many rows of the stored matrix are needed together, where not all of them are."""
        return self.effect.span if isinstance(self.effect.span, int) and not self.transposed else 1

    def apply(self, loaded: LoadedEffect, weight: torch.Tensor, base: torch.Tensor, start: int) -> None:
        """Change rows of the stored matrix in place.

        Args:
            loaded: The effect, loaded.
            weight: float64, shape ``[rows, columns]``, as the file has it, from row ``start`` on.
            base: The same before any effect.
            start: First row.
        """
        rows, columns = slice(start, start + weight.shape[0]), slice(0, weight.shape[1])
        at = Block(columns, rows) if self.transposed else Block(rows, columns)
        seen, original = (weight.T, base.T) if self.transposed else (weight, base)
        if self.effect.additive or self.scale == 1:
            loaded.apply(seen, original, at, self.scale if self.effect.additive else 1.0)
            return
        before = weight.clone()
        kept = before if base is weight else base  # the effect changes ``weight`` in place
        loaded.apply(seen, kept.T if self.transposed else kept, at, 1.0)
        weight.sub_(before).mul_(self.scale).add_(before)


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """A stored weight with effects on it, rounded once to the weight's own dtype."""

    base: Stored
    effects: tuple[Applied, ...]

    @property
    def spec(self) -> TensorSpec:
        """Name, dtype and shape: those of the base."""
        return self.base.spec

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes of the result, row block by row block.

        Raises:
            InvalidError: The weight or an effect holds NaN or an infinity, or the result does not fit the dtype.
            OSError: A file cannot be read.
        """
        columns = self.spec.shape[-1] if self.spec.shape else 1
        rows = math.prod(self.spec.shape) // columns if columns else 0
        row_bytes = columns * DTYPE_BYTES[self.spec.dtype]
        step = rows if any(one.whole for one in self.effects) else max(1, scratch.block_bytes // max(1, row_bytes))
        together = math.lcm(*(one.rows for one in self.effects))
        step = -(-step // together) * together
        loaded = [one.effect.load(scratch.device) for one in self.effects]
        with self.base.path.open("rb", buffering=0) as stream:
            for start in range(0, rows, max(1, step)):
                count = min(step, rows - start)
                self.base.read(stream.fileno(), start * row_bytes, scratch.bytes("stored", count * row_bytes))
                self._change(loaded, start, (count, columns), scratch)
                yield scratch.bytes("out", count * row_bytes)

    def _change(self, loaded: list[LoadedEffect], start: int, shape: tuple[int, int], scratch: Scratch) -> None:
        """One block from the buffer ``stored`` to the buffer ``out``."""
        dtype, count = self.spec.dtype, math.prod(shape)
        stored = scratch.host("stored", dtype, count)
        total = scratch.tensor("total", "F64", count).copy_(stored)
        weight = total.view(shape)
        later = any(not one.effect.additive for one in self.effects[1:])
        base = scratch.tensor("base", "F64", count).copy_(stored).view(shape) if later else weight
        for one, effect in zip(self.effects, loaded, strict=True):
            one.apply(effect, weight, base, start)
        out = scratch.tensor("out", dtype, count)
        if not round_once(total, out, scratch):
            raise not_finite(self.spec, where=str(self.base.path), fits=bool(torch.isfinite(stored).all()))
        if out.device.type != "cpu":
            scratch.host("out", dtype, count).copy_(out)
