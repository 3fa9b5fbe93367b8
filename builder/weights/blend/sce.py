"""``sce`` (Wan et al., 2024, "FuseChat"): select by variance, weigh by size, erase what disagrees in sign."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from builder.weights.blend.consensus import elect
from builder.weights.blend.operands import keep
from builder.weights.blend.selection import Cut, select
from builder.weights.blend.sums import sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from builder.weights.blend.blended import Ingredient, Recipe
    from builder.weights.blend.operands import Kernel, Operands, Tile

__all__ = ["sce"]

_LEAST: Final = 1e-6  # mergekit's: of the sum of mean squares, and of the divisor


def sce(recipe: Recipe, _ingredients: Sequence[Ingredient], operands: Operands) -> Kernel:
    """``base + sum(w * task) / sum(w)`` over the task vectors that agree with the sign of their sum.

    ``select_topk`` is the share of the elements that differ between the models at all; of them those of the largest
    variance are kept, of equal ones those of lower index. ``w`` is the mean square of a task vector's kept elements,
    as a share of that of all. As in mergekit, all ``w`` are equal where these mean squares sum to less than 1e-6.

    Raises:
        InvalidError: A tensor cannot be had.
        OSError: A file cannot be read.
    """
    cut = _cut(operands, recipe.select_topk)

    def tasks(tile: Tile) -> list[torch.Tensor]:
        kept = _kept(operands, tile, cut)
        found = operands.vectors(tile)
        if kept is not None:
            for values in found:
                keep(values, kept)
        return found

    squares = sums(operands, lambda tile: [one.mul_(one) for one in tasks(tile)])
    means = [square / operands.count for square in squares]
    total = sum(means)
    weights = [1 / len(means)] * len(means) if total < _LEAST else [one / total for one in means]

    def kernel(tile: Tile) -> torch.Tensor:
        mixed = elect(operands, tasks(tile), factors=weights, shares=weights, least=_LEAST)
        return mixed.add_(operands.base(tile))

    return kernel


def _cut(operands: Operands, share: float) -> Cut | None:
    """Where the selected elements end; ``None`` where all are."""
    if share >= 1:
        return None
    differing = sum(int(np.count_nonzero(_variance(operands, tile))) for tile in operands.tiles())
    return select(operands, lambda tile: [_variance(operands, tile)], [[int(differing * share)]])[0][0]


def _variance(operands: Operands, tile: Tile) -> NDArray[np.float64]:
    """The variance over the models, times the square of their number: the sum of all squared differences."""
    models = [operands.model(number, tile, number) for number in range(operands.models)]
    total = operands.buffer("variance", models[0]).zero_()
    work = operands.buffer("part", total)
    for one, other in combinations(models, 2):
        difference = torch.sub(one, other, out=work)
        total.add_(difference.mul_(difference))
    return total.numpy()


def _kept(operands: Operands, tile: Tile, cut: Cut | None) -> NDArray[np.bool_] | None:
    """Which elements of a tile are selected."""
    if cut is None:
        return None
    scores = _variance(operands, tile)
    split = min(max(cut.last + 1 - tile.start * operands.columns, 0), len(scores))
    kept = scores > cut.value
    kept[:split] |= scores[:split] == cut.value
    return kept
