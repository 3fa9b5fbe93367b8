"""The gate: checks of a manifest held against records alone, so that a new bound costs no evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.record import Record

__all__ = ["Bound", "Judgement", "judge"]


class Bound(Protocol):
    """A check of a manifest: a metric of a stage that measures, and what it may be."""

    @property
    def stage(self) -> str:
        """A stage that measures."""

    @property
    def metric(self) -> str:
        """One of its labels."""

    @property
    def min(self) -> float | None:
        """Lowest value that passes."""

    @property
    def max(self) -> float | None:
        """Highest value that passes."""

    @property
    def max_increase(self) -> float | None:
        """How far the value may be above that of ``against``, absolute."""

    @property
    def max_decrease(self) -> float | None:
        """How far the value may be below that of ``against``, absolute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What one check said.

    Attributes:
        stage: The stage; empty where the manifest has no ``checks:`` at all.
        metric: The label.
        bound: The bound, as ``at least 0.6``.
        value: What was measured; ``None`` where nothing was.
        against: The other artifact's value, where one was measured.
        passed: Whether the bound holds.
        reason: The whole judgement in one line.
    """

    stage: str
    metric: str
    bound: str
    value: float | None
    against: float | None
    passed: bool
    reason: str


def judge(checks: Sequence[Bound] | None, records: Mapping[str, Record]) -> tuple[Judgement, ...]:
    """Hold every check against the records; a metric that is missing fails its check.

    Args:
        checks: Those of the manifest; ``None``, where it has no ``checks:``, fails. An empty list passes.
        records: By stage.
    """
    if checks is None:
        reason = "the manifest has no checks: write some, or `checks: []` to release without"
        return (Judgement(stage="", metric="", bound="", value=None, against=None, passed=False, reason=reason),)
    return tuple(_judge(check, records.get(check.stage)) for check in checks)


def _judge(check: Bound, record: Record | None) -> Judgement:
    measured = record.metrics.get(check.metric, {}) if record is not None else {}
    value, against = measured.get("value"), measured.get("against")
    bound, passed = _hold(check, value, against)
    if value is None:
        text = f"{check.metric} of {check.stage} was not measured"
    else:
        text = f"{check.metric} of {check.stage} is {value:g}" + (
            f", {against:g} before" if against is not None else ""
        )
    return Judgement(
        stage=check.stage,
        metric=check.metric,
        bound=bound,
        value=value,
        against=against,
        passed=passed,
        reason=f"{text}; it must be {bound}",
    )


def _hold(check: Bound, value: float | None, against: float | None) -> tuple[str, bool]:
    """The bound in words, and whether it holds; what is missing or is not a number holds nothing."""
    difference = value - against if value is not None and against is not None else None
    limits = (
        (check.min, "at least {:g}", value, 1),
        (check.max, "at most {:g}", value, -1),
        (check.max_increase, "at most {:g} above the one before", difference, -1),
        (check.max_decrease, "at most {:g} below the one before", None if difference is None else -difference, -1),
    )
    asked = [(limit, words, got, sign) for limit, words, got, sign in limits if limit is not None]
    words = " and ".join(words.format(limit) for limit, words, _, _ in asked)
    holds = all(got is not None and math.isfinite(got) and (got - limit) * sign >= 0 for limit, _, got, sign in asked)
    return words, bool(asked) and holds
