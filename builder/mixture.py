"""How many rows of each data set an epoch has, and which: drawn once, by the seed. Pure.

An epoch has as many rows as all sets together. Each set gives the part of them that its weight is of all weights,
rounded by largest remainders, one row at least. Of a set that is larger than its part a random choice of its rows is
taken, of a smaller one each row several times, as evenly as can be. Every epoch goes through the rows so drawn.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["draw", "quotas"]


def quotas(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Rows of each set in an epoch.

    Args:
        sizes: Rows that each set has, at least one.
        weights: One for each set, above 0.
    """
    total, whole = sum(sizes), sum(weights)
    shares = [total * weight / whole for weight in weights]
    found = [int(share) for share in shares]
    for place in sorted(range(len(shares)), key=lambda one: (found[one] - shares[one], one))[: total - sum(found)]:
        found[place] += 1
    return [max(1, one) for one in found]


def draw(size: int, quota: int, *, seed: int, label: str) -> list[int]:
    """Numbers of the rows that a set gives: whole passes, each shuffled, the last one cut.

    Args:
        size: Rows that it has.
        quota: Rows that it gives.
        seed: The training's.
        label: What tells this set's draw from those of others: its digest.
    """
    source = random.Random(f"{seed} {label}")  # noqa: S311 - a shuffle, nothing secret
    order: list[int] = []
    while len(order) < quota:
        epoch = list(range(size))
        source.shuffle(epoch)
        order += epoch
    return order[:quota]
