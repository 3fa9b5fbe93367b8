"""``linear``: the weighted sum or mean of models (Wortsman et al., 2022, "Model soups")."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from builder.weights.blend.blended import Ingredient, Recipe
    from builder.weights.blend.operands import Kernel, Operands, Tile

__all__ = ["linear", "weight_sum"]

_CANCELLED: Final = 1e-8  # of the weights' sizes: a smaller sum is an accident of rounding


def linear(recipe: Recipe, ingredients: Sequence[Ingredient], operands: Operands) -> Kernel:
    """``sum(weight * model)``, with ``normalize`` divided by ``sum(weight)``.

    Raises:
        InvalidError: The weights sum to 0.
    """
    weights = [one.weight for one in ingredients]
    divisor = weight_sum(operands, weights) if recipe.normalize else 1.0

    def kernel(tile: Tile) -> torch.Tensor:
        total = _combine(operands, tile, weights)
        return total if divisor == 1 else total.div_(divisor)

    return kernel


def _combine(operands: Operands, tile: Tile, weights: Sequence[float]) -> torch.Tensor:
    """``sum(weight * model)`` on a tile, in the order of the models; float64, shape ``[elements]``."""
    total = operands.model(0, tile)
    if weights[0] != 1:
        total.mul_(weights[0])
    for number, weight in enumerate(weights[1:], start=1):
        part = operands.model(number, tile, slot=1)
        total.add_(part if weight == 1 else part.mul_(weight))
    return total


def weight_sum(operands: Operands, weights: Sequence[float]) -> float:
    """The sum of weights, to divide by.

    Raises:
        InvalidError: It is 0, or nothing but what rounding left of it.
    """
    total = math.fsum(weights)
    if abs(total) <= _CANCELLED * math.fsum(map(abs, weights)):
        raise operands.refused(
            f"has weights that sum to 0: {', '.join(f'{weight:g}' for weight in weights) or 'none'}",
            "give it a model with a weight, or write `normalize: false`",
        )
    return total
