"""Matrices as products of two thin factors: cut to their greatest singular directions, or put together as they are.

Singular directions come from the eigenvectors of the Gram matrix of the smaller side, which takes a tenth to a
thirtieth of the time of a full decomposition. A Gram matrix squares the singular values, so one pass shows only those
within ``2**-10`` of its greatest well; what a pass has found is taken off, and the next one looks at the rest. So the
values come out as exact as a decomposition in float64 gives them, down to ``2**-32`` of the greatest, far below what
the float32 factors can show beside it. By Eckart and Young (1936) no other matrix of that rank is nearer. How far the
float32 factors are from their matrix is measured on the factors themselves, not taken from theory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EXACT", "Cut", "Factors", "Pair", "concatenate", "cut_matrix", "cut_product", "decompose"]

_SEEN = 2.0**-20  # eigenvalues of a Gram matrix, of its greatest, that one pass takes
_NOTHING = 2.0**-64  # squares of singular values, of the greatest, that count as zero
_CANCELLED = 2.0**-44  # singular values, of what was summed, that are left where float64 cancels


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How much of a matrix is kept; without a limit every singular direction that is not zero.

    Attributes:
        rank: At most so many directions.
        energy: The fewest directions that hold this share of the squared norm, over 0 and up to 1.
    """

    rank: int | None = None
    energy: float | None = None

    def enough(self, squares: torch.Tensor, total: float) -> int:
        """How many directions it takes.

        Args:
            squares: float64, shape ``[count]``, on the CPU: squared singular values, the greatest first.
            total: Squared norm of the matrix.
        """
        if self.energy is not None and self.energy < 1:
            held = squares.cumsum(0)
            return min(int((held < self.energy * total).sum()) + 1, squares.numel())
        return squares.numel() if self.rank is None else min(self.rank, squares.numel())


EXACT = Cut()
"""Keeps every direction that is not zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """The product ``up @ down`` in float64.

    Attributes:
        up: Shape ``[out, rank]``.
        down: Shape ``[rank, in]``.
    """

    up: torch.Tensor
    down: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two factors as an adapter stores them, and how well they stand for their matrix.

    Attributes:
        up: LoRA's B, float32, shape ``[out, rank]``.
        down: LoRA's A, float32, shape ``[rank, in]``.
        size: Frobenius norm of the matrix.
        error: Frobenius norm of the matrix less ``up @ down``.
        portable: Every machine gives these bytes: the factors were only scaled and rounded.
    """

    up: torch.Tensor
    down: torch.Tensor
    size: float
    error: float
    portable: bool = False

    @property
    def rank(self) -> int:
        """Columns of ``up``; 0 where the matrix is zero."""
        return self.down.shape[0]


def cut_matrix(matrix: torch.Tensor, cut: Cut, *, summed: float = 0.0) -> Pair:
    """The nearest product of two thin factors.

    Args:
        matrix: float64, shape ``[out, in]``, every element finite; its content is lost.
        cut: How much of it is kept.
        summed: Frobenius norms of the matrices that it is the sum of, added up: beside them, what is left of two that
            cancel is rounding, and counts as zero.

    Raises:
        InvalidError: Its elements are too large to be squared.
    """
    size = _norm(matrix)
    found = _decompose(matrix, cut, summed)
    kept = _balanced(found, cut, size**2)
    up, down = kept.up.to(torch.float32), kept.down.to(torch.float32)
    # What the passes took off is put back, and what is kept taken off instead: no second copy of the matrix.
    matrix.addmm_(found.up, found.down).addmm_(up.to(torch.float64), down.to(torch.float64), alpha=-1)
    return Pair(up=up, down=down, size=size, error=_norm(matrix))


def cut_product(factors: Factors, cut: Cut) -> Pair:
    """The same for a matrix that is a product already, which is never multiplied out.

    Raises:
        InvalidError: Its elements are too large to be squared.
    """
    left, upper = torch.linalg.qr(factors.up)
    right, lower = torch.linalg.qr(factors.down.T)
    core = upper @ lower.T
    size = _norm(core)
    kept = _balanced(_decompose(core, cut, _norm(upper) * _norm(lower)), cut, size**2)
    return _stored(factors, Factors(up=left @ kept.up, down=kept.down @ right.T), size)


def decompose(matrix: torch.Tensor) -> Factors:
    """A matrix as a product of as low a rank as it has, in float64.

    Args:
        matrix: float64, shape ``[out, in]``, every element finite; its content is lost.

    Raises:
        InvalidError: Its elements are too large to be squared.
    """
    size = _norm(matrix)
    return _balanced(_decompose(matrix, EXACT, 0.0), EXACT, size**2)


def concatenate(parts: Sequence[Factors]) -> Pair:
    """The sum of products as one product, factors side by side: exact but for the rounding to float32."""
    factors = Factors(up=torch.cat([part.up for part in parts], 1), down=torch.cat([part.down for part in parts]))
    return _stored(factors, factors, _product_norm(factors))


def _stored(whole: Factors, kept: Factors, size: float) -> Pair:
    """Factors rounded to float32, measured against the product that they stand for."""
    up, down = kept.up.to(torch.float32), kept.down.to(torch.float32)
    rounded = Factors(up=up.to(torch.float64), down=down.to(torch.float64))
    if torch.equal(rounded.up, whole.up) and torch.equal(rounded.down, whole.down):
        return Pair(up=up, down=down, size=size, error=0.0)
    lost = Factors(up=torch.cat([whole.up, -rounded.up], 1), down=torch.cat([whole.down, rounded.down]))
    return Pair(up=up, down=down, size=size, error=_product_norm(lost))


def _decompose(matrix: torch.Tensor, cut: Cut, summed: float) -> Factors:
    """Orthonormal directions of the smaller side and what the matrix has along each; both are taken off the matrix."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    total, limit = _norm(wide) ** 2, min(cut.rank or wide.shape[0], wide.shape[0])
    if not math.isfinite(total):
        raise InvalidError(
            "a sum of deltas has numbers whose squares are beyond float64",
            where=f"a matrix of {list(matrix.shape)}",
            mend="lower the weights of the adapters; one of them holds numbers that no training gives",
        )
    lefts, rights = [wide.new_empty(wide.shape[0], 0)], [wide.new_empty(0, wide.shape[1])]
    greatest, count, held = 0.0, 0, 0.0
    while count < limit and (cut.energy is None or held < cut.energy * total):
        squares, vectors = torch.linalg.eigh(wide @ wide.T)
        highest = float(squares[-1])
        greatest = greatest or highest
        floor = max(highest * _SEEN, greatest * _NOTHING, (summed * _CANCELLED) ** 2)
        seen = min(int((squares > floor).sum()), limit - count)
        if not seen:
            break
        left = vectors[:, -seen:].flip(1)
        right = left.T @ wide
        wide.addmm_(left, right, alpha=-1)
        lefts.append(left)
        rights.append(right)
        count, held = count + seen, held + _norm(right) ** 2
    left, right = torch.cat(lefts, 1), torch.cat(rights)
    return Factors(up=right.T, down=left.T) if tall else Factors(up=left, down=right)


def _balanced(found: Factors, cut: Cut, total: float) -> Factors:
    """The directions that are kept, the greatest first, each factor with the root of the singular value.

    Of the two signs that a direction may have, the one is taken that makes the largest element of its column of ``up``
    positive.
    """
    ups, downs = torch.linalg.vector_norm(found.up, dim=0), torch.linalg.vector_norm(found.down, dim=1)
    values = ups * downs
    squares, order = (values**2).cpu().sort(descending=True, stable=True)
    order = order[: cut.enough(squares, total)].to(values.device)
    up, down, roots = found.up[:, order] / ups[order], found.down[order] / downs[order, None], values[order].sqrt()
    if not order.numel():
        return Factors(up=up, down=down)
    signs = up.gather(0, up.abs().argmax(0, keepdim=True)).sign()
    return Factors(up=up * (signs * roots), down=down * (signs * roots).T)


def _product_norm(factors: Factors) -> float:
    """Frobenius norm of a product, from the triangles of its factors."""
    return _norm(torch.linalg.qr(factors.up).R @ torch.linalg.qr(factors.down.T).R.T)


def _norm(matrix: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(matrix))
