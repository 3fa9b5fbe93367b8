"""A tensor with a row for each token, made longer: rows of new tokens, and rows that no token has yet.

All sums go through the rows one after another, so they are the same for any size of block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from builder.weights.draws import normal_row
from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.rounding import is_finite, round_once
from builder.weights.stream import Stored, not_finite
from registry.safetensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from builder.weights.stream import Scratch
    from registry.safetensors import TensorSpec

__all__ = ["Extended"]

_Start: TypeAlias = Literal["pieces", "mean", "normal", "zero"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Extended:
    """An embedding, a head or its bias with rows for new tokens.

    A new token's row is, by ``start``: the mean of the rows of its ``pieces``; the ``mean`` of the rows of all old
    tokens; ``normal`` numbers with mean and standard deviation of the old tokens' rows, column by column; or ``zero``.
    Rows that no token has hold the mean of the old tokens' rows: a head's can then never give the greatest score.

    Attributes:
        stored: The tensor as it is, any float dtype, shape ``[rows, width]`` or ``[rows]``.
        rows: Number of rows afterwards, at least as many.
        known: How many of the first rows are of old tokens.
        pieces: Row of each new token, at ``known`` or later -> rows of its pieces. May be one that is there already.
        start: How a new row starts.
        seed: Of ``normal``.
    """

    stored: Stored
    rows: int
    known: int
    pieces: Mapping[int, tuple[int, ...]]
    start: _Start
    seed: int

    @property
    def spec(self) -> TensorSpec:
        """Name and dtype of the tensor; more rows."""
        return replace(self.stored.spec, shape=(self.rows, *self.stored.info.shape[1:]))

    @property
    def _width(self) -> int:
        return math.prod(self.stored.info.shape[1:])

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes, row block by row block.

        Raises:
            InvalidError: A row holds NaN or an infinity.
            OSError: A file cannot be read.
        """
        row_bytes = self._width * DTYPE_BYTES[self.spec.dtype]
        step = max(1, scratch.block_bytes // max(1, row_bytes))
        old_rows = self.stored.info.shape[0]
        with self.stored.path.open("rb", buffering=0) as stream:
            fresh = self._fresh_rows(stream.fileno(), scratch)
            for start in range(0, self.rows, step):
                stop = min(start + step, self.rows)
                block = scratch.bytes("out", (stop - start) * row_bytes)
                kept = max(0, min(stop, old_rows) - start)
                self.stored.read(stream.fileno(), start * row_bytes, block[: kept * row_bytes])
                for row in self._fresh_between(start, stop):
                    place = (row - start) * row_bytes
                    block[place : place + row_bytes] = fresh(row)
                if not is_finite(scratch.host("out", self.spec.dtype, (stop - start) * self._width), scratch):
                    raise not_finite(self.spec, where=str(self.stored.path), fits=False)
                yield block

    def _fresh_between(self, start: int, stop: int) -> Iterator[int]:
        """Rows of a block that are not as they were: of new tokens, and beyond the old end."""
        end = self.stored.info.shape[0]
        yield from (row for row in range(max(start, self.known), min(stop, end)) if row in self.pieces)
        yield from range(max(start, end), stop)

    def _fresh_rows(self, descriptor: int, scratch: Scratch) -> Callable[[int], memoryview]:
        """Gives the bytes of a fresh row; what many rows share is computed once."""
        unused = any(row not in self.pieces for row in range(self.stored.info.shape[0], self.rows))
        mean = spread = torch.zeros(self._width, dtype=torch.float64)
        if unused or self.start in {"mean", "normal"}:
            mean = self._sum(descriptor, scratch, None) / self.known
        if self.start == "normal":
            spread = (self._sum(descriptor, scratch, mean) / self.known).sqrt_()
        mean_bytes = self._round(mean.clone(), scratch)

        def row(number: int) -> memoryview:
            if number not in self.pieces or self.start == "mean":
                return mean_bytes
            if self.start == "zero":
                return memoryview(bytes(len(mean_bytes)))
            if self.start == "pieces":
                return self._round(self._mean_of(self.pieces[number], descriptor), scratch)
            drawn = normal_row(self.seed, self.spec.name, number, self._width)
            return self._round(drawn.mul_(spread).add_(mean), scratch)

        return row

    def _sum(self, descriptor: int, scratch: Scratch, mean: torch.Tensor | None) -> torch.Tensor:
        """Sum of the old tokens' rows, or of their squared distances from ``mean``: float64, shape ``[width]``."""
        dtype, width = self.spec.dtype, self._width
        row_bytes = width * DTYPE_BYTES[dtype]
        step = max(1, scratch.block_bytes // max(1, row_bytes))
        total = torch.zeros(width, dtype=torch.float64)
        for start in range(0, self.known, step):
            count = min(step, self.known - start)
            self.stored.read(descriptor, start * row_bytes, scratch.bytes("stored", count * row_bytes))
            stored = scratch.host("stored", dtype, count * width)
            rows = scratch.host("total", "F64", count * width).copy_(stored).view(count, width)
            if mean is not None:
                rows.sub_(mean).square_()
            for row in rows:
                total.add_(row)
        return total

    def _mean_of(self, pieces: tuple[int, ...], descriptor: int) -> torch.Tensor:
        """Mean of some rows, added in order: float64, shape ``[width]``."""
        total = torch.zeros(self._width, dtype=torch.float64)
        row_bytes = self._width * DTYPE_BYTES[self.spec.dtype]
        for piece in pieces:
            data = bytearray(row_bytes)
            self.stored.read(descriptor, piece * row_bytes, memoryview(data))
            total.add_(torch.frombuffer(data, dtype=TORCH_DTYPES[self.spec.dtype]))
        return total.div_(len(pieces))

    def _round(self, total: torch.Tensor, scratch: Scratch) -> memoryview:
        out = torch.empty(total.numel(), dtype=TORCH_DTYPES[self.spec.dtype])
        if not round_once(total, out, scratch):
            raise not_finite(self.spec, where=str(self.stored.path), fits=False)
        return out.view(torch.uint8).numpy().data
