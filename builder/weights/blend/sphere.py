"""Blends along the sphere: models, or task vectors where there is a base, as directions with a length.

Each result is a sum of these vectors with factors that follow from their inner products. So one pass takes the inner
products, and a second one sums. Guards against vanishing lengths are mergekit's, so that the results are too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

from builder.weights.blend.elementary import arccos, cosine, sine
from builder.weights.blend.linear import weight_sum
from builder.weights.blend.sums import gram, inner_products

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.weights.blend.blended import Ingredient, Recipe
    from builder.weights.blend.operands import Kernel, Operands, Tile

__all__ = ["karcher", "multislerp", "nuslerp", "slerp"]

_PARALLEL: Final = 0.9995  # slerp: cosine above which it is linear
_TINY: Final = 1e-8  # a shorter vector has no direction
_LEAST_LENGTH: Final = 1e-7  # nuslerp: what a shorter vector counts as
_OPPOSITE: Final = -1 + 1e-12  # karcher: cosine up to which two directions have no way between them


def slerp(recipe: Recipe, _ingredients: Sequence[Ingredient], operands: Operands) -> Kernel:
    """From the base (``t`` = 0) to the model (1) on the great circle (Shoemake, 1985); linear if they are parallel.

    ``sin((1 - t) * angle) / sin(angle) * base + sin(t * angle) / sin(angle) * model``
    """

    def both(tile: Tile) -> list[torch.Tensor]:
        return [operands.base(tile), operands.model(0, tile)]

    products = gram(operands, both, 2)
    lengths = [length if length > _TINY else 1.0 for length in _lengths(products)]
    cosines = torch.tensor([products[0][1] / lengths[0] / lengths[1]], dtype=torch.float64).clamp_(-1, 1)
    start, end = (float(one) for one in _arc(cosines, recipe.t, cosines.abs() > _PARALLEL))

    def kernel(tile: Tile) -> torch.Tensor:
        base, model = both(tile)
        return model.mul_(end).add_(torch.mul(base, start, out=operands.buffer("part", base)))

    return kernel


def nuslerp(recipe: Recipe, ingredients: Sequence[Ingredient], operands: Operands) -> Kernel:
    """From the first vector to the second on the great circle, by the second's share of the weights.

    With ``row_wise`` each row is a vector of its own.

    Raises:
        InvalidError: The weights sum to 0.
    """
    weights = [one.weight for one in ingredients]
    share = weights[1] / weight_sum(operands, weights)

    def turned(vectors: Sequence[torch.Tensor], products: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
        lengths = [torch.sqrt(products[one][one]).clamp_(min=_LEAST_LENGTH) for one in (0, 1)]
        cosines = (products[0][1] / lengths[0] / lengths[1]).clamp_(-1, 1)
        start, end = _arc(cosines, share, 1 - cosines * cosines <= _TINY**2)
        return vectors[0].mul_(start).add_(vectors[1].mul_(end)).view(-1)

    if recipe.row_wise:

        def of_rows(tile: Tile) -> torch.Tensor:
            vectors = [one.view(-1, operands.columns) for one in operands.vectors(tile)]
            return operands.moved(turned(vectors, inner_products(operands, vectors)), tile)

        return of_rows
    whole = [[torch.tensor([one], dtype=torch.float64) for one in line] for line in gram(operands, operands.vectors, 2)]
    return lambda tile: operands.moved(turned(operands.vectors(tile), whole), tile)


def multislerp(recipe: Recipe, ingredients: Sequence[Ingredient], operands: Operands) -> Kernel:
    """The direction of the weighted mean of directions, with the weighted mean of the lengths.

    This is what mergekit's formula comes to: its step in the tangent space at the mean is zero at that very point.

    Raises:
        InvalidError: The weights sum to 0, or the directions cancel each other out.
    """
    if len(ingredients) == 1:
        return lambda tile: operands.model(0, tile)
    weights = [one.weight for one in ingredients]
    if recipe.normalize:
        total = weight_sum(operands, weights)
        weights = [weight / total for weight in weights]
    products = gram(operands, operands.vectors, len(weights))
    lengths = _lengths(products)
    shares = [weight / (length + _TINY) for weight, length in zip(weights, lengths, strict=True)]
    length = _length(products, shares)
    if length >= _TINY:
        mean = math.fsum(weight * one for weight, one in zip(weights, lengths, strict=True))
        shares = [mean * share / length for share in shares]
    elif len(weights) > 2 and any(lengths):  # noqa: PLR2004 - two of them have a line between them
        raise operands.refused("has models whose directions cancel each other out", "choose other weights")
    else:
        shares = weights
    return _combination(operands, operands.vectors, shares)


def karcher(recipe: Recipe, _ingredients: Sequence[Ingredient], operands: Operands) -> Kernel:
    """The direction with the least sum of squared angles to all models, with the mean of their lengths.

    Found by Newton's steps in the tangent space (Karcher, 1977), at most ``steps`` of them, until one is shorter than
    ``tolerance`` radians. A model whose length is not above ``tolerance`` has no say in the direction.

    Raises:
        InvalidError: Two of the directions are opposite to each other.
    """
    if operands.models == 1:
        return lambda tile: operands.model(0, tile)
    products = gram(operands, operands.vectors, operands.models)
    lengths = _lengths(products)
    valid = [number for number, length in enumerate(lengths) if length > recipe.tolerance]
    shares = [0.0] * len(lengths)
    if valid:
        cosines = [
            [1.0 if one == other else products[one][other] / lengths[one] / lengths[other] for other in valid]
            for one in valid
        ]
        mean = _mean_direction(cosines, recipe, operands)
        length = math.fsum(lengths) / len(lengths)
        for number, share in zip(valid, mean, strict=True):
            shares[number] = length * share / lengths[number]
    return _combination(operands, operands.vectors, shares)


def _mean_direction(cosines: Sequence[Sequence[float]], recipe: Recipe, operands: Operands) -> list[float]:
    """The mean as a sum of unit vectors: the factor of each."""
    count = len(cosines)
    mean = [1 / count] * count
    length = _length(cosines, mean)
    mean = [one / length for one in mean] if length >= recipe.tolerance else [1.0, *([0.0] * (count - 1))]
    for _ in range(recipe.steps):
        step = [0.0] * count
        for number in range(count):
            cosine_to = min(1.0, max(-1.0, math.fsum(map(_product, mean, cosines[number]))))
            if cosine_to <= _OPPOSITE:
                raise operands.refused("has models of opposite directions, which have no mean", "leave one of them out")
            angle = _of(arccos, cosine_to)
            if angle < recipe.tolerance:
                continue
            pull = angle / _of(sine, angle) / count
            step[number] += pull
            step = [one - pull * cosine_to * share for one, share in zip(step, mean, strict=True)]
        angle = _length(cosines, step)
        if angle < recipe.tolerance:
            break
        stay, go = _of(cosine, angle), _of(sine, angle) / angle
        mean = [stay * share + go * one for share, one in zip(mean, step, strict=True)]
        length = _length(cosines, mean)
        mean = [share / length for share in mean] if length > recipe.tolerance else mean
    return mean


def _combination(
    operands: Operands, vectors: Callable[[Tile], Sequence[torch.Tensor]], factors: Sequence[float]
) -> Kernel:
    """The sum of vectors with factors, put where they start."""

    def kernel(tile: Tile) -> torch.Tensor:
        found = vectors(tile)
        total = found[0].mul_(factors[0])
        for vector, factor in zip(found[1:], factors[1:], strict=True):
            total.add_(vector.mul_(factor))
        return operands.moved(total, tile)

    return kernel


def _arc(cosines: torch.Tensor, t: float, linear: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of start and end at the share ``t`` of the way between them, for each of their angles.

    Args:
        cosines: Of the angles, float64.
        t: Where; no unit.
        linear: Where the way is taken as straight, a bool for each angle.
    """
    angles = arccos(torch.where(linear, 0.0, cosines))
    below = sine(angles)
    start = torch.where(linear, 1 - t, sine((1 - t) * angles) / below)
    return start, torch.where(linear, t, sine(t * angles) / below)


def _lengths(products: Sequence[Sequence[float]]) -> list[float]:
    return [math.sqrt(products[one][one]) for one in range(len(products))]


def _length(products: Sequence[Sequence[float]], factors: Sequence[float]) -> float:
    """Length of a sum of vectors with these factors."""
    terms = [
        factors[one] * products[one][other] * factors[other]
        for one in range(len(factors))
        for other in range(len(factors))
    ]
    return math.sqrt(max(0.0, math.fsum(terms)))


def _product(one: float, other: float) -> float:
    return one * other


def _of(function: Callable[[torch.Tensor], torch.Tensor], value: float) -> float:
    """A function of tensors, of a number."""
    return float(function(torch.tensor([value], dtype=torch.float64)))
