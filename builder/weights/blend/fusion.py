"""``arcee_fusion`` (Arcee, 2024): the model where it differs from the base in a way that counts, else the base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from builder.weights.blend.elementary import exponential, logarithm
from builder.weights.blend.operands import keep
from builder.weights.blend.selection import select
from builder.weights.blend.sums import fold_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from builder.weights.blend.blended import Ingredient, Recipe
    from builder.weights.blend.operands import Kernel, Operands, Tile

__all__ = ["arcee_fusion"]

_LEAST: Final = 1e-8  # added to every probability
_REACH: Final = 1.5  # times the distance of the quartiles, above the median


def arcee_fusion(_recipe: Recipe, _ingredients: Sequence[Ingredient], operands: Operands) -> Kernel:
    """The model's elements whose importance is at least ``median + 1.5 * (third quartile - first quartile)``.

    An element's importance is ``|model - base|`` times the divergence ``KL(softmax(model) || softmax(base))`` of its
    row. The quartiles are those of the whole tensor, exactly; mergekit takes them of a random sample.
    """
    divergence = torch.empty(operands.rows, 1, dtype=torch.float64)
    for tile in operands.tiles():
        divergence[slice(*tile)] = _divergence(operands, tile)

    def importance(tile: Tile) -> NDArray[np.float64]:
        base, model = operands.base(tile), operands.model(0, tile)
        size = torch.sub(model, base, out=operands.buffer("importance", base)).abs_()
        size.view(-1, operands.columns).mul_(divergence[slice(*tile)])
        return size.numpy()

    last = operands.count - 1
    places = (last // 4, last // 2, 3 * last // 4)  # of the quartiles, counted upwards
    found = select(operands, lambda tile: [importance(tile)], [[operands.count - place for place in places]])
    first, median, third = (cut.value for cut in found[0])
    threshold = median + _REACH * (third - first)

    def kernel(tile: Tile) -> torch.Tensor:
        taken = np.greater_equal(importance(tile), threshold)
        base, model = operands.base(tile), keep(operands.model(0, tile), taken)
        rest = operands.buffer("part", base).copy_(base)
        return model.add_(keep(rest, np.logical_not(taken, out=taken)))

    return kernel


def _divergence(operands: Operands, tile: Tile) -> torch.Tensor:
    """``sum(p * log(p / q))`` of each row; float64, shape ``[rows, 1]``."""
    base, model = operands.base(tile), operands.model(0, tile)
    base = operands.buffer("start", base).copy_(base)
    chances = [_softmax(operands, values.view(-1, operands.columns)).add_(_LEAST) for values in (model, base)]
    ratio = torch.div(*chances, out=operands.buffer("ratio", model).view_as(chances[0]))
    logarithm(ratio.view(-1), operands.scratch)
    return fold_rows(ratio.mul_(chances[0])).clamp_(min=0)  # less than nothing is an error of rounding


def _softmax(operands: Operands, rows: torch.Tensor) -> torch.Tensor:
    """``exp(x) / sum(exp(x))`` of each row, in place."""
    rows.sub_(rows.amax(dim=1, keepdim=True))
    exponential(rows.view(-1), operands.scratch)
    return rows.div_(fold_rows(operands.buffer("part", rows.view(-1)).view_as(rows).copy_(rows)))
