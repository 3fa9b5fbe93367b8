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

__all__ = ["Loss", "LossTally", "Recast"]


@dataclass(frozen=True, kw_only=True, slots=True)
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


class LossTally:
    """Adds up the loss of one tensor while its bytes are given, block after block."""

    __slots__ = ("loss",)

    def __init__(self) -> None:
        """Start at nothing."""
        self.loss = Loss()

    def restart(self) -> None:
        """Start at nothing again."""
        self.loss = Loss()

    def add(self, block: Loss) -> None:
        """Add one block's."""
        before = self.loss
        self.loss = Loss(
            squares=before.squares + block.squares,
            moved=before.moved + block.moved,
            greatest=max(before.greatest, block.greatest),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recast:
    """Numbers in another dtype: each rounded once, to the nearest, ties to even.

    Attributes:
        values: The numbers.
        dtype: Safetensors name of the float dtype that they are stored in.
        tally: Where the loss is added up; complete when all bytes were given.
    """

    values: Values
    dtype: str
    tally: LossTally = field(default_factory=LossTally, compare=False)

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
        self.tally.restart()
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
            self.tally.add(_loss(exact.copy_(numbers), out, scratch))
            yield scratch.bytes("out", count * DTYPE_BYTES[self.dtype])

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


def _loss(exact: torch.Tensor, out: torch.Tensor, scratch: Scratch) -> Loss:
    """The loss of one block; ``exact`` is lost."""
    difference = scratch.host("difference", "F64", out.numel()).copy_(out).sub_(exact)
    lowest, highest = torch.aminmax(difference)
    return Loss(
        squares=float(exact.square_().sum()),
        moved=float(difference.square_().sum()),
        greatest=max(-float(lowest), float(highest)),
    )
