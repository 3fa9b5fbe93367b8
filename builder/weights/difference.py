"""How far two tensors of one shape are apart: norm, largest element, rank of the change. Streamed, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from builder.weights.dtypes import FLOATS
from builder.weights.stream import Scratch, Stored, not_finite
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ENERGY", "MAX_RANK", "Difference", "can_measure", "measure"]

ENERGY = 0.9
"""The rank of a change is the least that keeps this share of its squared norm: rounding alone gives it full rank."""

MAX_RANK = 64
"""Larger ranks are not told apart where a matrix is too large to be decomposed whole."""

_MATRIX = 2
_WHOLE = 512  # matrices with no side longer are decomposed as they are
_OVERSAMPLING = 8  # columns of the sketch beyond the largest rank that is looked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One change, or several taken together.

    Attributes:
        squares: Sum of the squares of the change's elements.
        base_squares: The same of the first tensor.
        largest: Largest absolute element of the change.
        rank: Least rank that keeps 90 % of the squared norm; 0 where it is no matrix, -1 where it is above 64 and was
            not looked for.
    """

    squares: float
    base_squares: float
    largest: float
    rank: int

    @property
    def relative(self) -> float:
        """Norm of the change over that of the first; infinite where that is zero and the change is not."""
        if not self.base_squares:
            return math.inf if self.squares else 0.0
        return math.sqrt(self.squares / self.base_squares)

    def __add__(self, other: Difference) -> Difference:
        """Both taken together; the rank is the larger one."""
        unknown = -1 in {self.rank, other.rank}
        return Difference(
            squares=self.squares + other.squares,
            base_squares=self.base_squares + other.base_squares,
            largest=max(self.largest, other.largest),
            rank=-1 if unknown else max(self.rank, other.rank),
        )


def measure(before: Stored, after: Stored, scratch: Scratch) -> Difference:
    """Measure a change.

    Args:
        before: The first tensor, of floats.
        after: The second, of the same shape; its dtype may be another.
        scratch: Buffers to work in.

    Raises:
        InvalidError: One of them holds NaN, an infinity or numbers whose squares float64 cannot hold, or a file ends
            too early.
        OSError: A file cannot be read.
    """
    shape = before.info.shape
    rows, columns = _as_matrix(shape)
    squares = base_squares = largest = 0.0
    whole = len(shape) == _MATRIX and max(shape) <= _WHOLE
    kept: list[torch.Tensor] = []
    probe = _probe(columns) if len(shape) == _MATRIX and not whole else None
    sketch: list[torch.Tensor] = []
    for base, delta in _deltas(before, after, rows, columns, scratch):
        squares += float(torch.sum(delta * delta))
        base_squares += float(torch.sum(base * base))
        largest = max(largest, float(delta.abs().max()))
        if whole:
            kept.append(delta.clone())
        elif probe is not None:
            sketch.append(delta @ probe)
    if not math.isfinite(squares) or not math.isfinite(base_squares):
        raise _unmeasurable(before, after, scratch)
    rank = 0
    if squares and kept:
        rank = _rank(torch.linalg.svdvals(torch.cat(kept)), squares)
    elif squares and sketch:
        rank = _sketched_rank(before, after, torch.cat(sketch), squares, scratch)
    return Difference(squares=squares, base_squares=base_squares, largest=largest, rank=rank)


def _unmeasurable(before: Stored, after: Stored, scratch: Scratch) -> InvalidError:
    """The error on the first of two tensors that holds something else than numbers, or on both."""
    for one in (before, after):
        rows, columns = _as_matrix(one.info.shape)
        if not all(bool(torch.isfinite(base).all()) for base, _ in _deltas(one, one, rows, columns, scratch)):
            return not_finite(one.spec, where=str(one.path), fits=False)
    return InvalidError(
        f"tensor {after.spec.name!r} holds numbers so large that their squares are beyond float64",
        where=f"{before.path} and {after.path}",
        mend="cast both to a narrower dtype, or compare models without such numbers",
    )


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    columns = shape[-1] if shape else 1
    return (math.prod(shape) // columns if columns else 0), columns


def _deltas(
    before: Stored, after: Stored, rows: int, columns: int, scratch: Scratch
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Row blocks of the first tensor and of the change, float64."""
    sizes = [one.info.size_bytes // max(1, rows * columns) for one in (before, after)]
    step = max(1, scratch.block_bytes // max(1, columns * max(sizes)))
    with before.path.open("rb", buffering=0) as old, after.path.open("rb", buffering=0) as new:
        for start in range(0, rows, step):
            count = min(step, rows - start) * columns
            values = []
            for role, one, stream, size in zip(("before", "after"), (before, after), (old, new), sizes, strict=True):
                one.read(stream.fileno(), start * columns * size, scratch.bytes(role, count * size))
                raw = scratch.host(role, one.info.dtype, count)
                values.append(scratch.host(f"{role} wide", "F64", count).copy_(raw).view(-1, columns))
            yield values[0], values[1].sub_(values[0])


def _probe(columns: int) -> torch.Tensor:
    """A fixed random matrix, so that the same tensors give the same figure."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(columns, MAX_RANK + _OVERSAMPLING, generator=generator, dtype=torch.float64)


def _rank(singular: torch.Tensor, squares: float) -> int:
    """Least number of singular values that keep the energy; -1 where all of them together do not."""
    reached = torch.cumsum(singular * singular, 0) >= ENERGY * squares
    return int(reached.to(torch.int64).argmax()) + 1 if bool(reached.any()) else -1


def _sketched_rank(before: Stored, after: Stored, sketch: torch.Tensor, squares: float, scratch: Scratch) -> int:
    """The rank by a randomised range finder (Halko, Martinsson and Tropp, 2011); a second pass over the change."""
    basis, _ = torch.linalg.qr(sketch)
    rows, columns = _as_matrix(before.info.shape)
    small = torch.zeros(basis.shape[1], columns, dtype=torch.float64)
    start = 0
    for _, delta in _deltas(before, after, rows, columns, scratch):
        small.addmm_(basis[start : start + delta.shape[0]].T, delta)
        start += delta.shape[0]
    found = _rank(torch.linalg.svdvals(small), squares)
    return found if found <= MAX_RANK else -1


def can_measure(before: Stored, after: Stored) -> bool:
    """Whether both are floats of one shape."""
    return before.info.shape == after.info.shape and {before.info.dtype, after.info.dtype} <= FLOATS
