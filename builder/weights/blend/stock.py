"""``model_stock`` (Jang et al., 2024): the mean of fine-tuned models, moved towards the base by the angle of theirs."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Final

import torch

from builder.weights.blend.sums import gram, inner_products

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.weights.blend.blended import Ingredient, Recipe
    from builder.weights.blend.operands import Kernel, Operands, Tile

__all__ = ["model_stock"]

_LEAST: Final = 1e-6  # mergekit's: of a product of lengths, and of the divisor


def model_stock(recipe: Recipe, _ingredients: Sequence[Ingredient], operands: Operands) -> Kernel:
    """``t * mean(models) + (1 - t) * base`` with ``t = n * cos / (1 + (n - 1) * cos)``.

    ``cos`` is the mean over all pairs of the n models of the cosine between their task vectors: of the whole tensor,
    or with ``filter_wise`` of each row. Where the divisor vanishes, the base is kept.
    """
    whole = None
    if not recipe.filter_wise:
        products = gram(operands, operands.vectors, operands.models)
        whole = _share([[torch.tensor(one, dtype=torch.float64) for one in line] for line in products])

    def kernel(tile: Tile) -> torch.Tensor:
        share = whole
        if share is None:
            vectors = [one.view(-1, operands.columns) for one in operands.vectors(tile)]
            share = _share(inner_products(operands, vectors))
        total = operands.model(0, tile)
        for number in range(1, operands.models):
            total.add_(operands.model(number, tile, slot=1))
        mean = total.div_(operands.models).view(-1, operands.columns)
        rest = operands.buffer("part", total).copy_(operands.base(tile)).view_as(mean)
        return mean.mul_(share).add_(rest.mul_(1 - share)).view(-1)

    return kernel


def _share(products: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """``t`` by the inner products of the task vectors; float64, the shape of each of these."""
    count = len(products)
    lengths = [torch.sqrt(products[one][one]) for one in range(count)]
    cosine = torch.zeros_like(products[0][0])
    for one, other in combinations(range(count), 2):
        cosine += (products[one][other] / (lengths[one] * lengths[other]).clamp(min=_LEAST)).clamp(-1, 1)
    cosine /= math.comb(count, 2)
    divisor = 1 + (count - 1) * cosine
    singular = divisor.abs() < _LEAST
    return torch.where(singular, 0.0, count * cosine / torch.where(singular, 1.0, divisor))
