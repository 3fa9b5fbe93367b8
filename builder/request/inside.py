"""Reads files of a folder that others could write to: no link is followed, nothing but plain files, up to a limit."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from registry.canonical import MAX_BYTES
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["blob_id", "blob_inside", "read_inside"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # opening a pipe must not wait
_BLOCK_BYTES = 1 << 20
_SHA1_DIGITS = 40


def read_inside(root: Path, path: str, *, max_bytes: int = MAX_BYTES) -> bytes | None:
    """Bytes of a file; ``None`` where there is none.

    Args:
        root: The folder; it is believed to be one.
        path: From there, with slashes.
        max_bytes: Limit on its size.

    Raises:
        InvalidError: There is a link on the way, no plain file, or a larger one.
    """
    with _opened(root, path) as descriptor:
        if descriptor < 0:
            return None
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise _refused(root, path, f"more than {max_bytes} bytes")
    return data


def blob_inside(root: Path, path: str, *, like: str) -> str:
    """Id of the blob that a file of any size would be; empty where there is none.

    Args:
        root: The folder.
        path: From there, with slashes.
        like: Any id of the repository, by whose length the hash is chosen.

    Raises:
        InvalidError: There is a link on the way, or no plain file.
    """
    with _opened(root, path) as descriptor:
        if descriptor < 0:
            return ""
        hasher = _hasher(os.fstat(descriptor).st_size, like)
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                hasher.update(block)
    return hasher.hexdigest()


def blob_id(data: bytes, *, like: str) -> str:
    """Id of the blob that these bytes would be, in the format of another id."""
    hasher = _hasher(len(data), like)
    hasher.update(data)
    return hasher.hexdigest()


def _hasher(size_bytes: int, like: str) -> hashlib._Hash:
    head = b"blob %d\0" % size_bytes
    return hashlib.sha1(head, usedforsecurity=False) if len(like) == _SHA1_DIGITS else hashlib.sha256(head)


@contextmanager
def _opened(root: Path, path: str) -> Iterator[int]:
    """A descriptor of a plain file; below zero where there is nothing."""
    try:
        descriptor = _open(root, path)
    except FileNotFoundError:
        yield -1
        return
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}:
            raise
        raise _refused(root, path, "a link, or no plain file") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _refused(root, path, "no plain file")
        yield descriptor
    finally:
        os.close(descriptor)


def _open(root: Path, path: str) -> int:
    """Open a file folder by folder, so that no link is followed on the way."""
    *folders, name = PurePosixPath(path).parts
    place = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, _FOLDER, dir_fd=place)
            os.close(place)
            place = inner
        return os.open(name, _FILE, dir_fd=place)
    finally:
        os.close(place)


def _refused(root: Path, path: str, what: str) -> InvalidError:
    return InvalidError(f"{path}: {what}", where=str(root), mend="a build leaves nothing of this kind: build again")
