"""Disks: room where artifacts, DVC's cache and the store are, and whether links can be made between them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from builder.doctor.finding import failed, good, poor
from registry.remote import DvcCache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.doctor.finding import Finding

__all__ = ["disk_findings", "judge_room"]

_GIB: Final = 1 << 30
_LITTLE: Final = 20 * _GIB
_NOTHING: Final = 1 * _GIB


def disk_findings(root: Path, store: Path) -> Iterator[Finding]:
    """What there is to say of the disks.

    Args:
        root: Root of the repository.
        store: Folder of the local content store; it may not be there yet.

    Raises:
        InvalidError: DVC's configuration cannot be read.
        OSError: A disk does not answer.
    """
    cache = _nearest(DvcCache(root).folder)
    places = {"the repository": root, "DVC's cache": cache, "the store": _nearest(store)}
    seen: dict[int, str] = {}
    for name, place in places.items():
        device = place.stat().st_dev
        if device not in seen:
            yield judge_room(name, shutil.disk_usage(place).free)
        seen.setdefault(device, name)
    if cache.stat().st_dev != root.stat().st_dev:
        said = "DVC's cache is on another disk than the repository: every artifact is stored twice"
        yield poor("links", said, "`dvc cache dir` on the disk of the repository")


def judge_room(name: str, free: int) -> Finding:
    """Whether there is room enough. Pure.

    Args:
        name: What is on that disk.
        free: Bytes that are free there.
    """
    said = f"{free / _GIB:.1f} GiB are free where {name} is"
    mend = "make room: `dvc gc --workspace` removes what no pipeline names; `.varietal/work` holds unfinished stages"
    if free < _NOTHING:
        return failed("disk", said, mend)
    return poor("disk", said, mend) if free < _LITTLE else good("disk", said)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(one for one in (folder, *folder.resolve().parents) if one.is_dir())
