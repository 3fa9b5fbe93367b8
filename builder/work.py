"""The work folder of one action: locked, kept over a kill, emptied once its artifact is out.

``.varietal/work/<action>/`` holds ``lock``, ``state/`` (checkpoints), ``out/`` (the artifact being made) and, when the
stage has done its part, ``done/`` and ``record.json``. ``done/`` appears by rename after the record, so where it exists
both are whole, and a run that was killed while publishing publishes again instead of computing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from registry.artifact import Artifact
from registry.errors import ConflictError, Error, MachineError
from registry.record import Record
from registry.store import link, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.digest import Digest

__all__ = ["WorkFolder", "open_work", "publish"]

_READ_ONLY = 0o444


class WorkFolder:
    """The folder of one action, while its lock is held.

    Attributes:
        state: What a stage function keeps for the next try.
        out: Where it puts the artifact's files; empty at the start.
    """

    def __init__(self, folder: Path) -> None:
        """Name the parts; nothing is touched."""
        self._folder = folder
        self.state = folder / "state"
        self.out = folder / "out"
        self._done = folder / "done"
        self._record = folder / "record.json"

    def start(self) -> None:
        """Make the parts; what an earlier try had half written to ``out`` goes, its ``state`` stays."""
        remove_tree(self.out)
        self.state.mkdir(exist_ok=True)
        self.out.mkdir()

    def finish(self, record: Record) -> Path:
        """Keep a finished artifact with its record: from here on a kill loses nothing."""
        write_file(self._record, record.to_bytes())
        sync_folder(self.out)
        self.out.rename(self._done)
        sync_folder(self._folder)
        return self._done

    def finished(self) -> tuple[Path, Record] | None:
        """The finished artifact of an earlier try, verified; one that does not hold is dropped."""
        if not self._done.exists():
            return None
        try:
            record = Record.from_bytes(self._record.read_bytes(), where=str(self._record))
            Artifact.read(self._done).verify_folder(self._done)
        except (Error, OSError):
            remove_tree(self._done)
            return None
        return self._done, record

    def remove(self) -> None:
        """Remove all of it."""
        remove_tree(self._folder)


@contextmanager
def open_work(root: Path, action: Digest) -> Iterator[WorkFolder]:
    """Lock the work folder of an action.

    Raises:
        ConflictError: Another process is at this very action, perhaps a training whose ``dvc`` was killed.
    """
    folder = root / ".varietal" / "work" / action.hex
    while True:
        with _opened(folder) as lock:
            _take(lock, folder, root)
            if not _is_at(folder / "lock", lock):
                continue  # whoever had it has just finished and removed the folder: begin anew
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield WorkFolder(folder)
            return


def publish(done: Path, record: Record, folder: Path, record_path: Path) -> None:
    """Show a finished artifact and its record, each by rename; the record goes first away and comes last.

    Args:
        done: The finished folder; it stays, its files are linked.
        record: The record to show beside it.
        folder: Where the artifact shall stand; what is there gives way.
        record_path: Where the record shall stand.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    record_path.unlink(missing_ok=True)
    fresh, old = _beside(folder, "new"), _beside(folder, "old")
    for leftover in (fresh, old):
        remove_tree(leftover)
    _link_tree(done, fresh)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    sync_folder(folder.parent)
    write_file(record_path, record.to_bytes())
    remove_tree(old)


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that it is seen whole or not at all, and survives a power cut."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder if it is there."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return


@contextmanager
def full_disk(where: str) -> Iterator[None]:
    """Turn a full disk into an error that advises.

    Raises:
        MachineError: The disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise MachineError(
            "the disk is full",
            where=where,
            mend="make room and run again: nothing half-written is shown, checkpoints are kept in .varietal/work",
        ) from error


def _opened(folder: Path) -> TextIO:
    """The lock file of a work folder, made if it is not there, though another process may be removing it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return (folder / "lock").open("a+", encoding="ascii")


def _take(lock: TextIO, folder: Path, root: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        raise ConflictError(
            f"process {lock.read().strip() or '?'} is at this stage already",
            where=str(folder.relative_to(root)),
            mend="wait for it, or end it (a training lives on when only its `dvc` was killed), then run again",
        ) from error


def _is_at(path: Path, lock: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False


def _beside(folder: Path, word: str) -> Path:
    return folder.with_name(f".{folder.name}.{word}")


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir()
    for path in sorted(source.rglob("*")):
        fresh = target / path.relative_to(source)
        if path.is_dir():
            fresh.mkdir()
        else:
            path.chmod(_READ_ONLY)
            link(path, fresh)
    sync_folder(target)
