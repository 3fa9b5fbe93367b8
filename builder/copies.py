"""Git's copies of records, held against the locks: DVC never looks at them, so everything else does, by one rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.places import beside_of, copy_of
from registry.conflict_markers import conflict_line
from registry.lock import content_md5
from registry.record import BASES

if TYPE_CHECKING:
    from builder.address import Address
    from registry.lock import LockedStage

__all__ = ["copy_problem", "record_md5"]


def record_md5(locked: LockedStage | None, address: Address) -> str:
    """What the lock says of a stage's record; empty where it says nothing."""
    output = None if locked is None else locked.outputs.get(beside_of(address))
    return "" if output is None else output.md5


def copy_problem(address: Address, data: bytes | None, wanted: str) -> str:
    """Why git's copy of a record is not the one that was built, and what mends it; empty where it is.

    Args:
        address: The stage.
        data: The copy; ``None`` where there is none.
        wanted: DVC's name of the record, by the lock.
    """
    if data is not None and content_md5(data) == wanted:
        return ""
    if data is None:
        problem = "is not there"
    elif conflict_line(data):
        problem = "has the conflict markers of a merge"
    else:
        problem = "is not the record that was built"
    stages = str(address) if address.variant == BASES else address.variant
    return f"{copy_of(address)} {problem}: run `varietal build {stages}`, which puts it back"
