"""DVC's listing of a folder, believed only where the record says the same. Values only, no files.

A ``.dir`` object is JSON: ``[{"md5": ..., "relpath": ...}, ...]``. DVC would follow ``../`` in it and take whatever
files it names, so it is read strictly and must name the files of the record, ``artifact.json`` beside them, and nothing
else.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from registry.artifact import LISTING, check_path
from registry.canonical import decode
from registry.errors import DigestMismatchError, InvalidError
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from registry.canonical import JSON
    from registry.record import Record

__all__ = ["check_paths", "most_bytes", "read_listing"]

_MD5 = re.compile(r"[0-9a-f]{32}")
_ENTRY_BYTES = 128  # an entry less its path: braces, keys, 32 digits, spaces
_ESCAPED = 12  # bytes that one character of a path may take in JSON: two escapes \uXXXX


def most_bytes(record: Record) -> int:
    """The most bytes that an honest listing of this artifact can have."""
    return _ENTRY_BYTES + sum(_ENTRY_BYTES + _ESCAPED * len(path) for path in _paths(record))


def read_listing(data: bytes, oid: str, record: Record, *, origin: str) -> Mapping[str, str]:
    """Object id of every file of an artifact, by path.

    Args:
        data: The ``.dir`` object.
        oid: Its name, ``<md5>.dir``.
        record: What the artifact is made of.
        origin: Where the listing comes from, for messages.

    Raises:
        DigestMismatchError: The bytes are not those that the object is named by.
        InvalidError: They are no listing, a path is dangerous, or the paths are not those of the record.
    """
    where = f"{origin}: {oid}"
    got = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if f"{got}.dir" != oid:
        raise DigestMismatchError(
            f"the listing has md5 {got}, its name says {oid.removesuffix('.dir')}", where=where, mend=_PUSH_AGAIN
        )
    value = decode(data, where=where, max_bytes=most_bytes(record))
    if not isinstance(value, list):
        raise InvalidError("the listing is no list", where=where, mend=_PUSH_AGAIN)
    entries = [_read_entry(entry, f"{where}: [{index}]") for index, entry in enumerate(value)]
    paths = [path for path, _ in entries]
    check_paths(paths, where=where)
    _check_same(paths, _paths(record), where)
    return dict(entries)


def check_paths(paths: Sequence[str], *, where: str) -> None:
    """Refuse paths that could not lie in one folder on every system.

    Raises:
        InvalidError: A path leaves the folder, is there twice, differs from another in case only, or is a folder too.
    """
    for path in paths:
        check_path(path, where=where)
    seen: dict[str, str] = {}
    for path in sorted(paths):
        other = seen.get(path.casefold())
        if other is not None:
            problem = f"{path!r} is listed twice" if other == path else f"{other!r} and {path!r} differ in case only"
            raise InvalidError(problem, where=where, mend=_PUSH_AGAIN)
        seen[path.casefold()] = path
    for path in sorted(paths):
        parts = path.casefold().split("/")
        for end in range(1, len(parts)):
            if file := seen.get("/".join(parts[:end])):
                raise InvalidError(f"{file!r} is a file and a folder", where=where, mend=_PUSH_AGAIN)


def _read_entry(value: JSON, where: str) -> tuple[str, str]:
    table = Table(value, where)
    table.only("md5", "relpath")
    oid = table.text("md5")
    if _MD5.fullmatch(oid) is None:
        raise InvalidError(f"{oid!r} is no md5 of a file", where=where, mend=_PUSH_AGAIN)
    return table.text("relpath"), oid


def _check_same(got: Iterable[str], expected: Iterable[str], where: str) -> None:
    extra, missing = sorted(set(got) - set(expected)), sorted(set(expected) - set(got))
    problems = [f"has {', '.join(extra)}, which the record does not name"] if extra else []
    problems += [f"lacks {', '.join(missing)}"] if missing else []
    if problems:
        raise InvalidError(f"the listing {' and '.join(problems)}", where=where, mend=_PUSH_AGAIN)


def _paths(record: Record) -> tuple[str, ...]:
    return (*(file.path for file in record.artifact.files), LISTING)


_PUSH_AGAIN = "do not use this object; push the artifact again from where it was built, or use another remote"
