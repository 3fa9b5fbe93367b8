"""``nearswap``: the model where it is close to the base, less and less of it where it is not (alchemonaut, 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.weights.blend.blended import Ingredient, Recipe
    from builder.weights.blend.operands import Kernel, Operands, Tile

__all__ = ["nearswap"]

_LEAST: Final = 1e-6  # mergekit's: of a difference


def nearswap(recipe: Recipe, _ingredients: Sequence[Ingredient], operands: Operands) -> Kernel:
    """``s * model + (1 - s) * base`` with ``s = t / |model - base|``, from 0 to 1."""
    t = torch.tensor(recipe.t, dtype=torch.float64)

    def kernel(tile: Tile) -> torch.Tensor:
        base, model = operands.base(tile), operands.model(0, tile)
        share = torch.sub(base, model, out=operands.buffer("share", base)).abs_().clamp_(min=_LEAST)
        torch.div(t, share, out=share).clamp_(0, 1)
        model.mul_(share)
        return model.add_(share.neg_().add_(1).mul_(base))

    return kernel
