"""A learned table of positions, stretched to more of them or cut to fewer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from builder.weights.rounding import is_finite, round_once
from builder.weights.stream import Stored, not_finite
from registry.safetensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.weights.stream import Scratch
    from registry.safetensors import TensorSpec

__all__ = ["Stretched"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretched:
    """A table with another number of positions.

    Of fewer, the first rows are kept. To more, it is stretched: with ``M`` rows before and ``N`` now, row ``i`` is the
    linear interpolation at ``i (M - 1) / (N - 1)`` of the old rows; the first and the last stay what they are.

    Attributes:
        stored: The table, any float dtype, shape ``[M, width]``.
        rows: ``N``, at least 1.
    """

    stored: Stored
    rows: int

    @property
    def spec(self) -> TensorSpec:
        """Name and dtype of the table; another number of rows."""
        return replace(self.stored.spec, shape=(self.rows, *self.stored.info.shape[1:]))

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes, row block by row block, rounded once.

        Raises:
            InvalidError: The table holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        dtype, width = self.spec.dtype, math.prod(self.stored.info.shape[1:])
        size = width * DTYPE_BYTES[dtype]
        step = max(1, scratch.block_bytes // max(1, size))
        with self.stored.path.open("rb", buffering=0) as stream:
            for start in range(0, self.rows, step):
                count = min(step, self.rows - start)
                if self.rows <= self.stored.info.shape[0]:
                    self.stored.read(stream.fileno(), start * size, scratch.bytes("out", count * size))
                    if not is_finite(scratch.host("out", dtype, count * width), scratch):
                        raise not_finite(self.spec, where=str(self.stored.path), fits=False)
                else:
                    self._interpolate(stream.fileno(), start, (count, width), scratch)
                yield scratch.bytes("out", count * size)

    def _interpolate(self, descriptor: int, start: int, shape: tuple[int, int], scratch: Scratch) -> None:
        """Rows from ``start`` on into the buffer ``out``; positions are whole numbers over ``N - 1``, so exact."""
        dtype, (count, width), last = self.spec.dtype, shape, self.stored.info.shape[0] - 1
        scaled = torch.arange(start, start + count, dtype=torch.int64) * last
        lower, share = scaled // (self.rows - 1), scaled % (self.rows - 1)
        first = int(lower[0])
        held = min(int(lower[-1]) + 1, last) - first + 1
        size = width * DTYPE_BYTES[dtype]
        self.stored.read(descriptor, first * size, scratch.bytes("stored", held * size))
        old = scratch.host("stored", dtype, held * width).view(held, width).double()
        upper = (lower + 1).clamp_(max=last) - first
        weight = share.double().unsqueeze(1)
        total = old[lower - first] * (self.rows - 1 - weight)
        total.add_(old[upper] * weight).div_(self.rows - 1)
        out = scratch.host("out", dtype, count * width)
        if not round_once(total.view(-1), out, scratch):
            raise not_finite(self.spec, where=str(self.stored.path), fits=False)
