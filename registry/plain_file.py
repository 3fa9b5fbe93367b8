"""Reads a small file whole, and nothing that only looks like one: a pipe would hang, a device would never end."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from registry.canonical import MAX_BYTES
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_plain"]


def read_plain(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Bytes of a document.

    Args:
        path: A plain file, or a link to one.
        max_bytes: Limit on its size; nothing of a larger file is read.

    Raises:
        InvalidError: It is no plain file, or larger.
        OSError: It cannot be read.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise InvalidError("this is no plain file", where=str(path), mend="remove it, then fetch or build again")
    if facts.st_size > max_bytes:
        raise InvalidError(
            f"more than {max_bytes} bytes, which no document of ours has",
            where=str(path),
            mend="fetch or build it again",
        )
    with path.open("rb") as stream:
        return stream.read(facts.st_size)
