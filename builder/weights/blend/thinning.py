"""Task vectors thinned out: which elements of one are kept, and how the sum of sizes is held.

* ``largest`` (TIES: Yadav et al., 2023): the share ``density`` with the largest magnitudes.
* ``window`` (Model Breadcrumbs: Davari and Belilovsky, 2023): the same, after the share ``gamma`` of the very largest
  was dropped.
* ``random`` (DARE: Yu et al., 2023): each element with the chance ``density``.
* ``ranked`` (DELLA: Deep et al., 2024): each element with a chance from ``density - epsilon`` for the smallest of its
  row to ``density + epsilon`` for the largest.

Exactly ``floor(density * elements)`` are kept by the first two; of equal magnitudes that of lower index counts as the
larger one. With ``rescale`` all that is kept is multiplied so that the sum of magnitudes is what it was before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

import numpy as np
import torch

from builder.weights.blend.draws import WORDS, Draws
from builder.weights.blend.operands import keep
from builder.weights.blend.selection import Cut, select
from builder.weights.blend.sums import sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from builder.weights.blend.blended import Ingredient
    from builder.weights.blend.operands import Operands, Tile

__all__ = ["Thinner", "Thinning", "factors", "thinners"]

Thinning: TypeAlias = Literal["none", "largest", "window", "random", "ranked"]

_LEAST_SUM: Final = 1e-7  # mergekit's: of magnitudes; nothing is rescaled below it


class Thinner(Protocol):
    """Drops elements of one task vector."""

    def thin(self, values: torch.Tensor, tile: Tile) -> None:
        """Set what is dropped of a tile to zero, in place.

        Args:
            values: float64, shape ``[elements]``: the task vector, or its magnitudes.
            tile: Which rows these are.
        """
        ...


class _All:
    """Drops nothing."""

    def thin(self, values: torch.Tensor, tile: Tile) -> None:
        """Leave all as it is."""


class _None:
    """Drops everything."""

    def thin(self, values: torch.Tensor, tile: Tile) -> None:
        _ = tile
        values.zero_()


class _Largest:
    """Keeps the elements before a cut, of which it drops those before another one."""

    def __init__(self, operands: Operands, cut: Cut, dropped: Cut) -> None:
        self._operands, self._cut, self._dropped = operands, cut, dropped

    def thin(self, values: torch.Tensor, tile: Tile) -> None:
        first = tile.start * self._operands.columns
        if self._dropped.last >= 0:
            outliers = self._operands.buffer("outliers", values).copy_(values)
            _shrink(outliers, first, self._dropped)
            _shrink(values, first, self._cut)
            values.sub_(outliers)  # either zero or the same number
        else:
            _shrink(values, first, self._cut)


def _shrink(values: torch.Tensor, first: int, cut: Cut) -> None:
    """Set to zero what is after a cut."""
    split = min(max(cut.last + 1 - first, 0), values.numel())
    if split:
        torch.hardshrink(values[:split], max(0.0, math.nextafter(cut.value, 0)), out=values[:split])
    if split < values.numel():
        torch.hardshrink(values[split:], cut.value, out=values[split:])


class _Random:
    """Keeps elements by chance; a tile's choice is made when it is first needed, and held for one more time."""

    def __init__(self, operands: Operands, ingredient: Ingredient, seed: int, *, ranked: bool) -> None:
        self._operands = operands
        self._draws = Draws(seed, ingredient.model, operands.name)
        self._bounds = _bounds(operands.columns, ingredient) if ranked else None
        self._bound = _bound(ingredient.density)
        self._held: dict[int, NDArray[np.uint8]] = {}  # first row of a tile -> a bit for each element

    def thin(self, values: torch.Tensor, tile: Tile) -> None:
        held = self._held.pop(tile.start, None)
        if held is None:
            held = self._held[tile.start] = np.packbits(self._choose(values, tile))
        keep(values, np.unpackbits(held, count=values.numel()))

    def _choose(self, values: torch.Tensor, tile: Tile) -> NDArray[np.bool_]:
        words = self._draws.words(tile.start * self._operands.columns, values.numel())
        if self._bounds is None:
            return words < self._bound
        shape = (tile.stop - tile.start, self._operands.columns)
        order = np.argsort(-np.abs(values.numpy().reshape(shape)), axis=1, kind="stable")
        kept = np.empty(shape, np.bool_)
        np.put_along_axis(kept, order, np.take_along_axis(words.reshape(shape), order, 1) < self._bounds, 1)
        return kept.reshape(-1)


def _bound(chance: float) -> np.uint32:
    """Words below it come with this chance."""
    return np.uint32(min(round(chance * WORDS), WORDS - 1))


def _bounds(columns: int, ingredient: Ingredient) -> NDArray[np.uint32]:
    """Of each element of a row, the largest first."""
    low, span = ingredient.density - ingredient.epsilon, 2 * ingredient.epsilon
    ranks = [(columns - 1 - place) / (columns - 1) for place in range(columns)] if columns > 1 else [0.5]
    return np.array([_bound(low + rank * span) for rank in ranks], np.uint32)


def thinners(
    operands: Operands, ingredients: Sequence[Ingredient], thinning: Thinning, seed: int
) -> tuple[Thinner, ...]:
    """What drops elements of each model's task vector.

    Args:
        operands: The tensors; a pass over them finds where the largest magnitudes end.
        ingredients: The models, as ``operands`` has them.
        thinning: How.
        seed: Of what is random.

    Raises:
        InvalidError: The density of ``ranked`` leaves no room for its epsilon, or a task vector is not finite.
        OSError: A file cannot be read.
    """
    found: dict[int, Thinner] = {}
    sought: dict[int, tuple[int, int]] = {}
    for number, one in enumerate(ingredients):
        if thinning == "none" or one.density >= 1:
            found[number] = _All()
        elif one.density <= 0:
            found[number] = _None()
        elif thinning in {"random", "ranked"}:
            _check_room(operands, one, thinning)
            found[number] = _Random(operands, one, seed, ranked=thinning == "ranked")
        else:
            sought[number] = _ranks(operands.count, one, thinning)
    if sought:
        cuts = select(operands, _Magnitudes(operands, tuple(sought)), list(sought.values()))
        for number, (dropped, cut) in zip(sought, cuts, strict=True):
            found[number] = _Largest(operands, cut, dropped)
    return tuple(found[number] for number in range(len(ingredients)))


def _check_room(operands: Operands, one: Ingredient, thinning: Thinning) -> None:
    if thinning == "ranked" and not one.epsilon < one.density < 1 - one.epsilon:
        raise operands.refused(
            f"has density {one.density:g} and epsilon {one.epsilon:g}: chances would leave the range from 0 to 1",
            "choose an epsilon smaller than the density, and than 1 less the density; or a density of 1",
        )


def _ranks(count: int, one: Ingredient, thinning: Thinning) -> tuple[int, int]:
    """How many of the largest are dropped, and how many are left before the cut."""
    if thinning == "largest":
        return 0, max(1, int(one.density * count))
    kept, outliers = int(one.density * count), int(one.gamma * count)
    end = min(count, kept + outliers)  # the density counts more than gamma
    return end - kept, end


class _Magnitudes:
    """The magnitudes of some task vectors, tile by tile."""

    def __init__(self, operands: Operands, numbers: Sequence[int]) -> None:
        self._operands, self._numbers = operands, numbers

    def __call__(self, tile: Tile) -> list[NDArray[np.float64]]:
        base = self._operands.base(tile)
        tasks = [self._operands.task(number, tile, base, slot) for slot, number in enumerate(self._numbers)]
        return [task.abs_().numpy() for task in tasks]


def factors(operands: Operands, kept: Sequence[Thinner], *, rescale: bool) -> list[float]:
    """What each thinned task vector is multiplied by, so that its sum of magnitudes is what it was before.

    Raises:
        InvalidError: A tensor cannot be had.
        OSError: A file cannot be read.
    """
    thinned = [number for number, one in enumerate(kept) if not isinstance(one, _All)] if rescale else []
    found = [1.0] * len(kept)
    if not thinned:
        return found

    def terms(tile: Tile) -> list[torch.Tensor]:
        base = operands.base(tile)
        before = [operands.task(number, tile, base, 2 * slot).abs_() for slot, number in enumerate(thinned)]
        after = [operands.buffer(f"{2 * slot + 1}", one).copy_(one) for slot, one in enumerate(before)]
        for number, values in zip(thinned, after, strict=True):
            kept[number].thin(values, tile)
        return [*before, *after]

    found_sums = sums(operands, terms)
    for slot, number in enumerate(thinned):
        before, after = found_sums[slot], found_sums[len(thinned) + slot]
        if before >= _LEAST_SUM and after >= _LEAST_SUM:
            found[number] = before / after
    return found
