"""The k-th largest of a tensor's scores, exactly, in few passes and little memory.

A sample tells between which two values the k-th largest almost surely lies. One pass over the tensor counts what is
above them and collects what is between; the rest is arithmetic on the few that were collected. Values that many
elements share (differences of 16-bit weights are often equal) are counted instead of collected. Where the guess was
wrong, or too much lies between, another pass looks at a narrower window, and so on until the value is found.

Among equal scores the element of lower index counts as the larger one. So exactly k elements are the k largest, and
which ones depends on the scores alone.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from builder.weights.blend.operands import Operands, Tile

__all__ = ["Cut", "select"]

_ROOM: Final = 1 << 20  # scores that one search may collect: 16 MiB with their indices
_SMALL: Final = 1 << 15  # elements; a tensor of no more is collected whole
_SAMPLE: Final = (1 << 13, 1 << 18)  # scores in a sample, at least and at most
_SAMPLED_SHARE: Final = 512  # every how many scores one is in it
_SPREAD: Final = 4  # standard errors of the sample that the window reaches to both sides
_HEAVY: Final = 4  # values that are counted instead of collected, at most


class Cut(NamedTuple):
    """Where the k largest end.

    Attributes:
        value: The k-th largest score; what is above it is one of the k largest.
        last: Index of the last element that is one of them of those whose score is equal to it.
    """

    value: float
    last: int


def select(
    operands: Operands, scores: Callable[[Tile], Sequence[NDArray[np.float64]]], ranks: Sequence[Sequence[int]]
) -> list[list[Cut]]:
    """Find k-th largest scores of several kinds at once.

    Args:
        operands: What tiles there are.
        scores: Each kind of score of a tile's elements, float64, not negative, shape ``[elements]``.
        ranks: For each kind of score every k that is wanted, from 0 to the number of elements.

    Returns:
        For each kind and each k where the k largest end.

    Raises:
        InvalidError: A score is NaN or an infinity.
        OSError: A file cannot be read.
    """
    searches = [[_Search(rank, operands.count) for rank in some] for some in ranks]
    if operands.count > _SMALL:
        samples = _sample(operands, scores, len(ranks))
        for some, sample in zip(searches, samples, strict=True):
            for search in some:
                if search.cut is None:
                    search.aim(sample)
    while any(search.cut is None for some in searches for search in some):
        _look(operands, scores, searches)
    return [[search.cut for search in some if search.cut is not None] for some in searches]


def _sample(
    operands: Operands, scores: Callable[[Tile], Sequence[NDArray[np.float64]]], kinds: int
) -> list[list[NDArray[np.float64]]]:
    """Some scores of each kind, in groups that lie together."""
    tiles = list(operands.samples())
    total = sum(tile.stop - tile.start for tile in tiles) * operands.columns
    fewest, most = _SAMPLE
    stride = max(1, total // max(fewest, min(most, operands.count // _SAMPLED_SHARE)))
    taken: list[list[NDArray[np.float64]]] = [[] for _ in range(kinds)]
    for number, tile in enumerate(tiles):
        for group, values in zip(taken, scores(tile), strict=True):
            group.append(values[number % min(stride, len(values)) :: stride].copy())
    return taken


def _look(
    operands: Operands, scores: Callable[[Tile], Sequence[NDArray[np.float64]]], searches: Sequence[Sequence[_Search]]
) -> None:
    """One pass over the tensor, for every search that has not ended."""
    for tile in operands.tiles():
        first = tile.start * operands.columns
        for some, values in zip(searches, scores(tile), strict=True):
            if not math.isfinite(values.max()):
                operands.check_finite()
                raise operands.refused("has differences beyond float64", "blend weights of a sensible size")
            for search in some:
                if search.cut is None:
                    search.see(values, first)
    tiles = {tile.start * operands.columns: tile for tile in operands.tiles()}
    for kind, some in enumerate(searches):
        for search in some:
            if search.cut is None:
                shared = search.settle()
                if shared is not None:  # one tile again: the value is known, its place in the tile is not
                    value, first, nth = shared
                    places = np.flatnonzero(scores(tiles[first])[kind] == value)
                    search.cut = Cut(value, first + int(places[nth - 1]))


class _Search:
    """Looks for one k-th largest score: what is known, what a pass looks at, what it has seen.

    Attributes:
        cut: The answer, once it is known.
    """

    __slots__ = (
        "_above",
        "_bottom",
        "_count",
        "_counts",
        "_heavy",
        "_high",
        "_inside",
        "_kept",
        "_low",
        "_over",
        "_passes",
        "_places",
        "_rank",
        "_reaching",
        "_top",
        "_values",
        "cut",
    )

    def __init__(self, rank: int, count: int) -> None:
        self.cut: Cut | None = Cut(math.inf, -1) if rank <= 0 else None
        self._rank, self._count, self._passes = rank, count, 0
        self._low, self._high = 0.0, math.inf  # it is between these, both ends in it
        self._above, self._reaching = 0, count  # so many are above the upper end, so many not below the lower one
        self._watch(0.0, math.inf, ())

    def _watch(self, bottom: float, top: float, heavy: Sequence[float]) -> None:
        """Set what the next pass looks at: a window with both ends in it, and the values to count in it."""
        self._bottom, self._top = bottom, top
        self._heavy = sorted((value for value in heavy if bottom <= value <= top), reverse=True)
        self._counts: list[list[tuple[int, int]]] = [[] for _ in self._heavy]  # first index of a tile, how many
        self._over = self._inside = self._kept = 0
        self._values: list[NDArray[np.float64]] = [np.empty(0)]
        self._places: list[NDArray[np.int64]] = [np.empty(0, np.int64)]

    def aim(self, groups: Sequence[NDArray[np.float64]]) -> None:
        """Choose the first window by a sample."""
        sample = np.sort(np.concatenate(groups))
        length = len(sample)
        place = max(0, length - 1 - int(self._rank / self._count * length))
        shares = np.array([np.count_nonzero(group > sample[place]) / len(group) for group in groups])
        # Elements that lie together are alike; so the error is judged by how the groups differ.
        margin = int(length * _SPREAD * shares.std() / math.sqrt(len(groups))) + _SPREAD
        bottom = float(sample[place - margin]) if place >= margin else 0.0
        top = float(sample[place + margin]) if place + margin < length else math.inf
        inside = sample[np.searchsorted(sample, bottom) : np.searchsorted(sample, top, "right")]
        self._watch(bottom, top, _frequent(inside, _ROOM / _HEAVY * length / self._count))

    def see(self, scores: NDArray[np.float64], first: int) -> None:
        """Count and collect from a tile that starts at index ``first``."""
        inside = np.greater_equal(scores, self._bottom)
        marked = np.greater(scores, self._top)
        self._over += int(np.count_nonzero(marked))
        np.logical_xor(inside, marked, out=inside)
        for value, counts in zip(self._heavy, self._counts, strict=True):
            shared = int(np.count_nonzero(np.equal(scores, value, out=marked)))
            if shared:
                counts.append((first, shared))
                np.logical_xor(inside, marked, out=inside)
                self._inside += shared
        places = np.flatnonzero(inside)
        room = max(0, _ROOM - self._kept)
        self._inside += len(places)
        self._kept += len(places)
        self._values.append(scores.take(places[:room]))
        self._places.append(places[:room] + first)

    def settle(self) -> tuple[float, int, int] | None:
        """After a pass: take the answer, or choose the next window.

        Returns:
            Where the value is known and too many elements have it: the value, the first index of the tile with the
            last element that counts, and which one of its equals in that tile it is.
        """
        self._passes += 1
        wanted = self._rank - self._over  # which one it is of those in the window
        if 0 < wanted <= self._inside and self._kept <= _ROOM:
            return self._take(wanted)
        seen = np.concatenate(self._values)
        if wanted <= 0:
            self._low, self._reaching = math.nextafter(self._top, math.inf), self._over
        elif wanted > self._inside:
            self._high, self._above = math.nextafter(self._bottom, 0.0), self._over + self._inside
        else:
            self._low, self._reaching = self._bottom, self._over + self._inside
            self._high, self._above = self._top, self._over
        self._narrow(seen[(seen >= self._low) & (seen <= self._high)])
        return None

    def _take(self, wanted: int) -> tuple[float, int, int] | None:
        """The ``wanted``-th largest value in the window, of which all is known."""
        values, places = np.concatenate(self._values), np.concatenate(self._places)
        heavier = 0
        for value, counts in zip(self._heavy, self._counts, strict=True):
            nth = wanted - heavier - int(np.count_nonzero(values > value))  # among its equals
            if nth <= 0:
                break
            for first, count in counts:
                if nth <= count:
                    return value, first, nth
                nth -= count
            heavier += sum(count for _, count in counts)
        nth = wanted - heavier
        value = _largest(values, [nth - 1])[0]
        equals = places[values == value]
        self.cut = Cut(value, int(equals[nth - 1 - np.count_nonzero(values > value)]))
        return None

    def _narrow(self, seen: NDArray[np.float64]) -> None:
        """Go on between the two ends: with all of it where there is room, else by turns with all and the upper half.

        All of it once more is worth a pass: the values that many elements share may be known by now, and are counted.

        Args:
            seen: Some of the scores there.
        """
        if self._low == self._high:
            self._watch(self._low, self._high, (self._low,))
        elif self._reaching - self._above <= _ROOM or not len(seen) or self._passes % 2:
            self._watch(self._low, self._high, _frequent(seen, len(seen) / _HEAVY))
        else:
            by_seen = self._passes % 4 == 0  # else by the floats there are, which surely ends
            middle = _largest(seen, [len(seen) // 2])[0] if by_seen else _middle(self._low, self._high)
            bottom = max(middle, math.nextafter(self._low, math.inf))
            self._watch(bottom, self._high, _frequent(seen, len(seen) / _HEAVY))


def _largest(values: NDArray[np.float64], ranks: Sequence[int]) -> list[float]:
    """The values that so many others are larger than."""
    places = [len(values) - 1 - rank for rank in ranks]
    return [float(value) for value in np.partition(values, places)[places]]


def _frequent(values: NDArray[np.float64], least: float) -> list[float]:
    """The values that come most often, each at least so often."""
    unique, counts = np.unique(values, return_counts=True)
    often = np.argsort(-counts, kind="stable")[:_HEAVY]
    return [float(unique[one]) for one in often if counts[one] >= max(2, least)]


def _middle(low: float, high: float) -> float:
    """The float half-way between two that are not negative, counted in floats."""
    first, last = (struct.unpack("<q", struct.pack("<d", value))[0] for value in (low, high))
    return float(struct.unpack("<d", struct.pack("<q", (first + last + 1) // 2))[0])
