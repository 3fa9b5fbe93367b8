"""What earlier builds tell of time and size: this repository's records, scaled by how much work a stage is. Pure."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from registry.record import Record

__all__ = ["expected_duration_s", "expected_size_bytes", "work"]

_ALIKE = 2.0  # artifacts of sizes within this factor tell of each other's durations
_ONE_DEVIATION = 1.4826  # of a normal spread, by the median distance


def work(settings: Mapping[str, object]) -> float:
    """How much a stage has to do, in units that mean something within one kind: tokens of a training, else 1."""
    training = settings.get("train")
    if not isinstance(training, dict):
        return 1.0
    steps, batch, length = (_number(training.get(name)) for name in ("steps", "batch", "max_length"))
    if steps:
        return steps * (batch or 1.0) * (length or 1.0)
    return (_number(training.get("epochs")) or 1.0) * (length or 1.0)


def expected_duration_s(
    settings: Mapping[str, object], own: Record | None, others: Iterable[Record]
) -> tuple[float | None, float | None]:
    """Seconds that a stage will take, and how far they may be off; ``None`` where nothing tells.

    Args:
        settings: Of the stage, as an action has them.
        own: The record of its last build.
        others: Records of the same kind.
    """
    alike = [one for one in others if own is None or _is_alike(one, own)]
    if own is not None and own not in alike:
        alike.append(own)
    scaled = [one.duration_s * scale for one in alike if (scale := _scale(settings, one.action.settings)) is not None]
    if not scaled:
        return None, None
    mine = None if own is None else _scale(settings, own.action.settings)
    center = statistics.median(scaled) if own is None or mine is None else own.duration_s * mine
    if len(scaled) == 1:
        return round(center, 1), None
    spread = _ONE_DEVIATION * statistics.median(abs(one - center) for one in scaled)
    return round(center, 1), round(spread, 1)


def expected_size_bytes(own: Record | None, others: Iterable[Record]) -> int | None:
    """Size of the artifact: as before, or as those of its kind mostly are."""
    if own is not None:
        return own.artifact.size_bytes
    sizes = [one.artifact.size_bytes for one in others]
    return round(statistics.median(sizes)) if sizes else None


def _is_alike(one: Record, own: Record) -> bool:
    size, mine = max(1, one.artifact.size_bytes), max(1, own.artifact.size_bytes)
    return one.device == own.device and max(size, mine) <= _ALIKE * min(size, mine)


def _scale(now: Mapping[str, object], then: Mapping[str, object]) -> float | None:
    """By how much the work differs; ``None`` where one counts steps and the other epochs."""
    if _counts_steps(now) != _counts_steps(then):
        return None
    return work(now) / work(then)


def _counts_steps(settings: Mapping[str, object]) -> bool:
    training = settings.get("train")
    return isinstance(training, dict) and bool(_number(training.get("steps")))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0
