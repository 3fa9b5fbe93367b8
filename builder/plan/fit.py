"""Trainings that the runner's card cannot hold whatever the micro-batch: told before anything is computed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.counted import counted
from registry.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.plan.values import PlannedStage

__all__ = ["check_fits"]


def check_fits(stages: Iterable[PlannedStage]) -> None:
    """Refuse stages that would only run out of memory.

    Raises:
        RefusedError: Some cannot fit, each with what would.
    """
    found = [one for one in stages if one.estimate.does_not_fit]
    if not found:
        return
    said = counted(len(found), "training does not", "trainings do not")
    raise RefusedError(
        f"{said} fit the card (`card_memory_gib:` of .varietal/runner.yaml), not even a single row at a time",
        where=", ".join(str(one.address) for one in found),
        mend="; ".join(f"{one.address}: {one.estimate.does_not_fit}" for one in found),
    )
