"""The folder that a pull makes: what it holds now, and how it is shown only when it is whole."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from registry.artifact import LISTING, Artifact
from registry.digest import digest_file
from registry.errors import ConflictError, DigestMismatchError, InvalidError, NotFoundError
from registry.file_lock import locked
from registry.store import disk_errors, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.record import Record

__all__ = ["difference", "folder_beside", "holds", "show"]


def holds(record: Record, target: Path, *, force: bool) -> bool:
    """Whether the target holds the very artifact; what it holds instead is protected.

    Args:
        record: The artifact.
        target: A folder, or a path that does not exist.
        force: Another artifact, or a damaged one, may be replaced; nothing else ever is.

    Raises:
        ConflictError: It holds something else, and may not be replaced.
        MachineError: It cannot be read.
    """
    if not os.path.lexists(target):
        return False
    if target.is_symlink() or not target.is_dir():
        raise ConflictError("the target is not a folder", where=str(target), mend="choose another folder")
    with disk_errors(target):
        if not any(target.iterdir()):
            return False
    problem = difference(record, target)
    if not problem:
        return True
    if not (target / LISTING).is_file():
        raise ConflictError(
            "the folder holds other files", where=str(target), mend="choose an empty folder or a new one"
        )
    if not force:
        raise ConflictError(
            f"the folder holds another artifact, or a damaged one: {problem}",
            where=str(target),
            mend="choose another folder, or replace this one with --force",
        )
    return False


def difference(record: Record, folder: Path) -> str:
    """What keeps a folder from being a record's artifact, in words; empty where every byte is right.

    Raises:
        MachineError: The folder cannot be read.
    """
    try:
        with disk_errors(folder):
            artifact = Artifact.read(folder)
            if artifact.digest != record.artifact.digest:
                return f"it is {artifact.digest}, wanted is {record.artifact.digest}"
            if digest_file(folder / LISTING) != record.artifact.listing:
                return f"{LISTING} has other bytes"
            artifact.verify_folder(folder)
    except (NotFoundError, DigestMismatchError, InvalidError) as error:
        return error.what
    return ""


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A new, locked folder beside the target, removed at the end; those that a killed pull left are removed too.

    Raises:
        ConflictError: What should be the parent folder is a file.
        MachineError: The folder cannot be made.
    """
    parent, prefix = target.parent, f".{target.name}.pull-"
    with disk_errors(parent):
        _make_parent(parent)
        with locked(parent):  # while this is held, every folder of a living pull is locked
            _remove_left_over(parent, prefix)
            folder = parent / f"{prefix}{secrets.token_hex(4)}"
            folder.mkdir()
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make_parent(parent: Path) -> None:
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConflictError(
            "a file is where a folder should be", where=str(parent), mend="choose another folder"
        ) from error


def _remove_left_over(parent: Path, prefix: str) -> None:
    for folder in [path for path in parent.iterdir() if path.name.startswith(prefix)]:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        except BlockingIOError:  # another pull is at work in it
            continue
        finally:
            os.close(descriptor)


def show(record: Record, folder: Path, target: Path, *, force: bool) -> None:
    """Rename a whole folder to the target; of two pulls at once both end well.

    Args:
        record: The artifact in it.
        folder: Made by :func:`folder_beside`.
        target: Where it is to be seen.
        force: Replace what is there; :func:`holds` said that this may be.

    Raises:
        ConflictError: Something else came to be there in the meantime.
        MachineError: The folder cannot be renamed.
    """
    with disk_errors(target):
        sync_folder(folder)
        if force and target.exists():
            if not holds(record, target, force=True):  # asked again: a pull is long enough to put files there
                _replace(folder, target)
        else:
            try:
                folder.rename(target)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST} or not holds(record, target, force=False):
                    raise
        sync_folder(target.parent)


def _replace(folder: Path, target: Path) -> None:
    aside = folder.with_name(f"{folder.name}.old")
    target.rename(aside)
    try:
        folder.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside)
