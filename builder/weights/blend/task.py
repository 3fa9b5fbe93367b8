"""Task vectors, the differences from a base: thinned out, put together, added to the base.

``task_arithmetic`` (Ilharco et al., 2022) sums them as they are. The others thin them out first, each in its own way
(:mod:`builder.weights.blend.thinning`); those with ``ties`` in their names, and ``della``, then keep of each element
only the part that agrees with the sign of the sum (:mod:`builder.weights.blend.consensus`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from builder.weights.blend.consensus import NOBODY, elect
from builder.weights.blend.linear import weight_sum
from builder.weights.blend.thinning import Thinner, Thinning, factors, thinners

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from builder.weight_stages import BlendMethod
    from builder.weights.blend.blended import Ingredient, Recipe
    from builder.weights.blend.operands import Kernel, Operands, Tile

__all__ = ["TASK_METHODS", "task"]


class _Form(NamedTuple):
    """How task vectors are thinned out, and whether they vote on the sign."""

    thinning: Thinning
    votes: bool


TASK_METHODS: Final[Mapping[BlendMethod, _Form]] = {
    "task_arithmetic": _Form("none", votes=False),
    "ties": _Form("largest", votes=True),
    "dare_linear": _Form("random", votes=False),
    "dare_ties": _Form("random", votes=True),
    "della": _Form("ranked", votes=True),
    "della_linear": _Form("ranked", votes=False),
    "breadcrumbs": _Form("window", votes=False),
    "breadcrumbs_ties": _Form("window", votes=True),
}


def task(recipe: Recipe, ingredients: Sequence[Ingredient], operands: Operands) -> Kernel:
    """``base + lambda * mix(weight * thin(model - base))``.

    With ``normalize`` the mix is divided by the sum of the weights; where there was a vote, element by element by that
    of the models that agree.

    Raises:
        InvalidError: The weights sum to 0, or density and epsilon do not fit together.
        OSError: A file cannot be read.
    """
    form = TASK_METHODS[recipe.method]
    weights = [one.weight for one in ingredients]
    divisor = weight_sum(operands, weights) if recipe.normalize and not form.votes else 1.0
    kept = thinners(operands, ingredients, form.thinning, recipe.seed)
    scales = factors(operands, kept, rescale=bool(recipe.rescale) and form.thinning != "none")
    scales = [scale * weight for scale, weight in zip(scales, weights, strict=True)]

    def kernel(tile: Tile) -> torch.Tensor:
        base = operands.base(tile)
        tasks = _thinned(operands, tile, base, kept, scales)
        if form.votes:
            shares = weights if recipe.normalize else None
            total = elect(operands, tasks, factors=[1.0] * len(tasks), shares=shares, least=NOBODY)
        else:
            total = tasks[0]
            for other in tasks[1:]:
                total.add_(other)
        if divisor != 1:
            total.div_(divisor)
        if recipe.lambda_ != 1:
            total.mul_(recipe.lambda_)
        return total.add_(base)

    return kernel


def _thinned(
    operands: Operands, tile: Tile, base: torch.Tensor, kept: Sequence[Thinner], scales: Sequence[float]
) -> list[torch.Tensor]:
    """The weighted task vectors on a tile, all at once."""
    found = []
    for number, (thinner, scale) in enumerate(zip(kept, scales, strict=True)):
        values = operands.task(number, tile, base, slot=number)
        thinner.thin(values, tile)
        found.append(values if scale == 1 else values.mul_(scale))
    return found
