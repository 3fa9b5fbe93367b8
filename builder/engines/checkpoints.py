"""Checkpoints that can be trusted: one is used only when its seal is whole and its files are as the seal says.

A training writes ``checkpoint-<step>/`` file by file. When all are there they are flushed to disk, and the seal, a
listing of their sizes and digests, appears by rename. A kill at any moment leaves an unsealed folder, which the next
try removes, and resumes from the sealed one before.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from registry.canonical import decode, encode
from registry.digest import digest_file
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

    from registry.canonical import JSON

__all__ = ["any_checkpoint", "keep_last", "latest", "seal", "step_of"]

_PREFIX = "checkpoint-"
_SEAL = "varietal-seal.json"


def step_of(checkpoint: Path) -> int:
    """Optimiser step that a checkpoint was written after."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def any_checkpoint(folder: Path) -> bool:
    """Whether a training came as far as a sealed checkpoint; what is in it is not looked at."""
    return any(folder.glob(f"{_PREFIX}*/{_SEAL}"))


def seal(checkpoint: Path) -> None:
    """Declare a checkpoint complete: flush its files, then write the seal by rename.

    Raises:
        OSError: The disk is full, or another failure of the write.
    """
    listing = _listing(checkpoint)
    for name in listing:
        _flush(checkpoint / name)
    part = checkpoint / f"{_SEAL}.part"
    part.write_bytes(encode(listing))
    _flush(part)
    part.rename(checkpoint / _SEAL)
    _flush(checkpoint)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint in a folder; whatever is not whole is removed.

    Raises:
        OSError: A folder cannot be read or removed.
    """
    found: list[Path] = []
    for candidate in folder.glob(f"{_PREFIX}*"):
        if candidate.name.removeprefix(_PREFIX).isdecimal() and _is_whole(candidate):
            found.append(candidate)
        else:
            shutil.rmtree(candidate)
    return max(found, key=step_of, default=None)


def keep_last(folder: Path) -> None:
    """Remove all but the newest sealed one, to make room for the next; what is in them is not looked at again.

    Raises:
        OSError: A folder cannot be read or removed.
    """
    sealed = sorted((one.parent for one in folder.glob(f"{_PREFIX}*/{_SEAL}")), key=step_of)
    for checkpoint in sealed[:-1]:
        shutil.rmtree(checkpoint)


def _is_whole(checkpoint: Path) -> bool:
    path = checkpoint / _SEAL
    if not path.is_file():
        return False
    try:
        return decode(path.read_bytes(), where=str(path)) == _listing(checkpoint)
    except InvalidError:
        return False


def _listing(checkpoint: Path) -> dict[str, JSON]:
    """Size and digest of every file, the seal left out."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and not path.name.startswith(_SEAL))
    return {path.relative_to(checkpoint).as_posix(): [path.stat().st_size, str(digest_file(path))] for path in files}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
