"""Scratch folders: one for each process, gone at its end; what killed processes left goes when the next one begins."""

from __future__ import annotations

import fcntl
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from builder.work import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["scratch_folder"]

_LOCK = "lock"


@contextmanager
def scratch_folder(place: Path) -> Iterator[Path]:
    """A folder of one's own, with a lock file in it.

    Args:
        place: Folder of scratch folders, and of nothing else; it is made.
    """
    place.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("a", encoding="ascii") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # nobody sweeps between the making of a folder and the locking of it
        _sweep(place)
        folder = Path(tempfile.mkdtemp(dir=place))
        lock = (folder / _LOCK).open("a", encoding="ascii")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        remove_tree(folder)
        lock.close()


def _sweep(place: Path) -> None:
    """Remove what no living process holds."""
    for folder in place.iterdir():
        if not _is_held(folder / _LOCK):
            remove_tree(folder)


def _is_held(path: Path) -> bool:
    try:
        with path.open("a", encoding="ascii") as lock:
            return not _take(lock)
    except (FileNotFoundError, NotADirectoryError):
        return False  # its process was killed before it had a lock


def _take(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
