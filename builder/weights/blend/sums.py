"""Sums that are the same everywhere: the order of the additions is fixed by the elements' places alone.

A row or a tile is folded: its second half is added to its first, again and again. Each of these additions is correctly
rounded, element by element, on every machine; torch's own sums depend on the width of the processor's registers and on
threads. What the tiles give is added with :func:`math.fsum`, which is exact. Tiles are the same for every block size.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.weights.blend.operands import Operands, Tile

__all__ = ["fold", "fold_rows", "gram", "inner_products", "sums"]

_FEW = 64


def fold(values: torch.Tensor) -> float:
    """The sum of float64 values, shape ``[count]``; their content is lost."""
    count = values.numel()
    while count > _FEW:
        half = (count + 1) // 2
        values[: count - half].add_(values[half:count])
        count = half
    return _exact(values[:count].tolist())


def fold_rows(values: torch.Tensor) -> torch.Tensor:
    """The sum of every row of float64 values, shape ``[rows, columns]``; their content is lost.

    Returns:
        float64, shape ``[rows, 1]``, a view into ``values``.
    """
    count = values.shape[1]
    while count > 1:
        half = (count + 1) // 2
        values[:, : count - half].add_(values[:, half:count])
        count = half
    return values[:, :1]


def sums(operands: Operands, terms: Callable[[Tile], Sequence[torch.Tensor]]) -> list[float]:
    """Sums over a whole tensor.

    Args:
        operands: What tiles there are.
        terms: What is summed, for each of the sums: float64, shape ``[elements of the tile]``; its content is lost.

    Raises:
        InvalidError: A tensor holds NaN or an infinity, or a sum is beyond float64.
        OSError: A file cannot be read.
    """
    parts = [[fold(values) for values in terms(tile)] for tile in operands.tiles()]
    return _checked(operands, [_exact(column) for column in zip(*parts, strict=True)])


def gram(operands: Operands, vectors: Callable[[Tile], Sequence[torch.Tensor]], count: int) -> list[list[float]]:
    """All inner products of some vectors that are as long as the tensor has elements.

    Args:
        operands: What tiles there are.
        vectors: A tile of each vector; float64, shape ``[elements]``, all at once.
        count: How many vectors.

    Returns:
        ``[count][count]``, symmetric.

    Raises:
        InvalidError: A tensor holds NaN or an infinity, or a product is beyond float64.
        OSError: A file cannot be read.
    """
    pairs = list(combinations_with_replacement(range(count), 2))
    parts: list[list[float]] = [[] for _ in pairs]
    for tile in operands.tiles():
        found = vectors(tile)
        work = operands.buffer("product", found[0])
        for part, (one, other) in zip(parts, pairs, strict=True):
            part.append(fold(torch.mul(found[one], found[other], out=work)))
    matrix = [[0.0] * count for _ in range(count)]
    for total, (one, other) in zip(_checked(operands, [_exact(part) for part in parts]), pairs, strict=True):
        matrix[one][other] = matrix[other][one] = total
    return matrix


def inner_products(operands: Operands, vectors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """All inner products of some vectors, row by row.

    Args:
        operands: Has the buffers.
        vectors: float64, shape ``[rows, columns]`` each.

    Returns:
        ``[count][count]`` of float64, shape ``[rows, 1]``; symmetric.
    """
    work = operands.buffer("product", vectors[0]).view_as(vectors[0])
    found = {
        (one, other): fold_rows(torch.mul(vectors[one], vectors[other], out=work)).clone()
        for one, other in combinations_with_replacement(range(len(vectors)), 2)
    }
    return [[found[min(one, other), max(one, other)] for other in range(len(vectors))] for one in range(len(vectors))]


def _exact(numbers: Sequence[float]) -> float:
    """Their sum, rounded once; NaN where it is not finite."""
    return math.fsum(numbers) if all(map(math.isfinite, numbers)) and sum(map(abs, numbers)) < math.inf else math.nan


def _checked(operands: Operands, found: list[float]) -> list[float]:
    if not all(map(math.isfinite, found)):
        operands.check_finite()
        raise operands.refused("has a norm beyond float64", "blend weights of a sensible size")
    return found
