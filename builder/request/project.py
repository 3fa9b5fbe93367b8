"""params.yaml of the assembled tree: ``bases:`` and ``defaults:`` as the request has them, all else main's. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from registry import yaml12
from registry.canonical import pretty
from registry.errors import ConflictError, Fault, InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON

__all__ = ["TAKEN_KEYS", "merge_project", "takes_over"]

TAKEN_KEYS = ("bases", "defaults")
"""What a request may say of params.yaml."""


def merge_project(base: bytes, main: bytes, request: bytes, *, where: str) -> tuple[bytes, tuple[str, ...]]:
    """Put what a request changes into main's params.yaml.

    Args:
        base: The file where the two parted.
        main: The file on main.
        request: The file of the request.
        where: Its path.

    Returns:
        The file's bytes, and the keys that the request changes in vain. The bytes are the request's own where they say
        the same, so that faults are told by its lines.

    Raises:
        InvalidError: One of them is no table of plain YAML.
        ConflictError: Both changed the same entry, otherwise.
    """
    old, ours, theirs = (_table(data, where) for data in (base, main, request))
    merged = {**ours}
    for key in TAKEN_KEYS:
        if key in theirs or key in ours:
            merged[key] = _merge(
                _entries(old, key, where), _entries(ours, key, where), _entries(theirs, key, where), key
            )
    untaken = sorted((old.keys() | theirs.keys()) - set(TAKEN_KEYS))
    left = tuple(key for key in untaken if not _same(old.get(key), theirs.get(key)))
    if _same(merged, theirs):
        return request, left
    return (main if _same(merged, ours) else _written(merged, where)), left


def takes_over(before: bytes, after: bytes, other: bytes, *, where: str) -> bool:
    """Whether a file has every entry that differs between two others as the later one has it.

    Args:
        before: The earlier file.
        after: The later one.
        other: The file that is asked about; of a request, so that it may be anything.
        where: Its path.
    """
    try:
        old, new, here = (_table(data, where) for data in (before, after, other))
        for key in TAKEN_KEYS:
            was, made, found = (_entries(one, key, where) for one in (old, new, here))
            differing = [name for name in was.keys() | made.keys() if not _same(was.get(name), made.get(name))]
            wanted, there = ([(name in side, side.get(name)) for name in differing] for side in (made, found))
            if not _same(wanted, there):
                return False
    except InvalidError:
        return False
    return True


def _written(merged: Mapping[str, JSON], where: str) -> bytes:
    """JSON is YAML that every reader takes alike."""
    try:
        return pretty(merged)
    except ValueError as error:
        raise InvalidError("a number that is none", where=where, mend="write a finite number") from error


def _table(data: bytes, where: str) -> Mapping[str, JSON]:
    value = yaml12.load(data, where).value
    if not isinstance(value, dict):
        raise _no_table(where, "")
    return value


def _entries(document: Mapping[str, JSON], key: str, where: str) -> Mapping[str, JSON]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise _no_table(where, key)
    return value


def _no_table(where: str, key: str) -> InvalidError:
    return InvalidError.from_faults([Fault(file=where, line=0, key=key, problem="no table", mend="write a table")])


def _merge(
    old: Mapping[str, JSON], ours: Mapping[str, JSON], theirs: Mapping[str, JSON], table: str
) -> dict[str, JSON]:
    """Entries of a table, each from the side that changed it; main's order, then what is new."""
    merged: dict[str, JSON] = {}
    for key in dict.fromkeys((*ours, *theirs)):
        before, here, there = ((key in side, side.get(key)) for side in (old, ours, theirs))
        if not _same(there, before) and not _same(here, before) and not _same(here, there):
            raise ConflictError(
                f"main has changed {table}.{key} since, and to another value",
                where="params.yaml",
                mend="merge main into the request, and settle it there",
            )
        present, value = here if _same(there, before) else there
        if present:
            merged[key] = value
    return merged


def _same(one: object, other: object) -> bool:
    """Equal, and of equal types: 1, 1.0 and true differ."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
