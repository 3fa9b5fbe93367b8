"""One model's tensor seen as a tall matrix: all dimensions but the last are its rows."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from builder.weights.dtypes import FLOATS
from registry.errors import InvalidError
from registry.safetensors import DTYPE_BYTES

if TYPE_CHECKING:
    import torch

    from builder.weights.stream import Scratch, Stored

__all__ = ["Rows", "StoredRows", "matrix_shape"]


class Rows(Protocol):
    """What a blend reads of one model: the rows of a matrix, in float64."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        ...

    @property
    def where(self) -> str:
        """Where the tensor lies, for errors."""
        ...

    def read(self, start: int, stop: int, scratch: Scratch, role: str) -> torch.Tensor:
        """The rows from ``start`` up to ``stop``.

        Args:
            start: First row.
            stop: The row after the last one.
            scratch: Buffers to work in.
            role: Name of the buffer that holds the result; what was read into it before is lost.

        Returns:
            float64, shape ``[stop - start, columns]``, contiguous, in the host's memory; the caller may change it.

        Raises:
            InvalidError: The tensor cannot be had.
            OSError: A file cannot be read.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRows:
    """A tensor in a safetensors file, row by row as it lies there."""

    stored: Stored

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``: a vector is one row, stacked matrices are one tall matrix."""
        return matrix_shape(self.stored.info.shape)

    @property
    def where(self) -> str:
        """The file."""
        return str(self.stored.path)

    def read(self, start: int, stop: int, scratch: Scratch, role: str) -> torch.Tensor:
        """The rows from ``start`` up to ``stop``, float64, shape ``[stop - start, columns]``.

        Raises:
            InvalidError: The tensor holds no floats, or the file ends too early.
            OSError: The file cannot be read.
        """
        dtype, columns = self.stored.info.dtype, self.shape[1]
        if dtype not in FLOATS:
            raise InvalidError(
                f"tensor {self.stored.info.name!r} is {dtype}; only floats can be blended",
                where=self.where,
                mend=f"blend models whose weights are one of {', '.join(sorted(FLOATS))}",
            )
        count, row_bytes = (stop - start) * columns, columns * DTYPE_BYTES[dtype]
        # Opened anew for every tile: this costs microseconds, and no file stays open that a caller forgets to close.
        descriptor = os.open(self.stored.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.stored.read(descriptor, start * row_bytes, scratch.bytes("stored", count * DTYPE_BYTES[dtype]))
        finally:
            os.close(descriptor)
        values = scratch.host(role, "F64", count)
        return values.copy_(scratch.host("stored", dtype, count)).view(stop - start, columns)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """``(rows, columns)`` of a tensor: the last dimension is the columns; a single number is one row of one."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1
