"""A tensor in another dtype, rounded once, and what the rounding cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.rounding import is_finite, round_once
from builder.weights.stream import not_finite
from registry.errors import InvalidError
from registry.safetensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.weights.stream import Scratch
    from builder.weights.values import Values
    from registry.safetensors import TensorSpec

__all__ = ["Loss", "Recast"]


@dataclass(kw_only=True, slots=True)
class Loss:
    """How far numbers moved when they were rounded.

    Attributes:
        squares: Sum of the squares of the numbers before.
        moved: Sum of the squares of the differences.
        greatest: Greatest difference, absolute.
    """

    squares: float = 0.0
    moved: float = 0.0
    greatest: float = 0.0

    @property
    def relative_rms(self) -> float:
        """Root mean square of the differences, divided by that of the numbers; 0 where all of those are 0."""
        return math.sqrt(self.moved / self.squares) if self.squares else 0.0

    @classmethod
    def sum(cls, losses: Iterable[Loss]) -> Loss:
        """The loss of several tensors together; the order makes no difference."""
        every = list(losses)
        return cls(
            squares=math.fsum(one.squares for one in every),
            moved=math.fsum(one.moved for one in every),
            greatest=max((one.greatest for one in every), default=0.0),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recast:
    """Numbers in another dtype: each rounded once, to the nearest, ties to even.

    Attributes:
        values: The numbers.
        dtype: Safetensors name of the float dtype that they are stored in.
        loss: Filled while the bytes are given, and complete when all of them were.
    """

    values: Values
    dtype: str
    loss: Loss = field(default_factory=Loss, compare=False)

    @property
    def spec(self) -> TensorSpec:
        """Name and shape of the tensor, and the new dtype."""
        return replace(self.values.spec, dtype=self.dtype)

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes, rounded block by block.

        Raises:
            InvalidError: The tensor holds NaN or an infinity, or a number that the dtype cannot hold.
            OSError: A file cannot be read.
        """
        self.loss.squares = self.loss.moved = self.loss.greatest = 0.0
        for numbers in self.values.numbers(scratch):
            if not is_finite(numbers, scratch):
                raise not_finite(self.spec, where=self.values.where, fits=False)
            count = numbers.numel()
            exact = scratch.host("total", "F64", count).copy_(numbers)
            out = scratch.host("out", self.dtype, count)
            # From 32 bits or fewer torch rounds once; only float64 goes by way of float32.
            fits = round_once(exact, out, scratch) if numbers.dtype == torch.float64 else _copy(numbers, out, scratch)
            if not fits:
                raise self._too_large(scratch)
            self._measure(exact.copy_(numbers), out, scratch)
            yield scratch.bytes("out", count * DTYPE_BYTES[self.dtype])

    def _measure(self, exact: torch.Tensor, out: torch.Tensor, scratch: Scratch) -> None:
        """Add one block to the loss; ``exact`` is lost."""
        difference = scratch.host("difference", "F64", out.numel()).copy_(out).sub_(exact)
        lowest, highest = torch.aminmax(difference)
        self.loss.greatest = max(self.loss.greatest, -float(lowest), float(highest))
        self.loss.squares += float(exact.square_().sum())
        self.loss.moved += float(difference.square_().sum())

    def _too_large(self, scratch: Scratch) -> InvalidError:
        """The error on numbers beyond the dtype, which tells the largest of the whole tensor."""
        largest = max(float(numbers.abs().max()) for numbers in self.values.numbers(scratch))
        limit = torch.finfo(TORCH_DTYPES[self.dtype]).max
        return InvalidError(
            f"{self.spec.name!r} holds numbers up to {largest:g}, {self.dtype} at most {limit:g}",
            where=self.values.where,
            mend="cast to a dtype with a wider range, such as bfloat16, or leave this tensor out of `targets`",
        )


def _copy(numbers: torch.Tensor, out: torch.Tensor, scratch: Scratch) -> bool:
    return is_finite(out.copy_(numbers), scratch)
