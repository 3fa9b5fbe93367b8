"""What git prints, as values. Text in, nothing is run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "MARK",
    "TAG_FIELDS",
    "Change",
    "Commit",
    "Tag",
    "read_commit",
    "read_raw_log",
    "read_tag",
]

MARK = "\x02"
"""Begins a commit in a log, and ends a tag in a list."""

TAG_FIELDS = "%(refname:strip=2)%00%(objecttype)%00%(objectname)%00%(*objectname)%00%(creatordate:unix)"
"""What `git for-each-ref` is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tag:
    """An annotated tag, or a light one, which has no message.

    Attributes:
        name: Its name.
        target: Commit that it names.
        message: Text, without the signature; empty where messages were not asked for.
        created: When it was made.
        annotated: Whether it is an object of its own.
    """

    name: str
    target: str
    message: str
    created: datetime
    annotated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A file as one commit left it: commit, path from the root, blob."""

    commit: str
    path: str
    blob: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """A commit: id, when it was committed, first line of its message."""

    id: str
    committed: datetime
    subject: str


def read_commit(line: str) -> Commit:
    """A line of `git log`: id, seconds and subject, a NUL between them."""
    commit, seconds, subject = line.split("\0", 2)
    return Commit(id=commit, committed=_moment(seconds), subject=subject)


def read_tag(fields: list[str]) -> Tag:
    """The fields of :data:`TAG_FIELDS`, with subject and body of the message where they were asked for."""
    name, kind, target, peeled, seconds, *message = fields
    subject, body = message or ("", "")
    return Tag(
        name=name,
        target=peeled or target,
        message=f"{subject}\n\n{body}" if body else subject,
        created=_moment(seconds),
        annotated=kind == "tag",
    )


def _moment(seconds: str) -> datetime:
    """A time that git printed; one that no calendar has, which git lets pass, counts as none: 1970."""
    try:
        return datetime.fromtimestamp(int(seconds or 0), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def read_raw_log(out: bytes) -> Iterator[Change]:
    """``<mark>commit`` fields of `git log --raw -z`, each with ``:modes blobs status NUL path`` after it.

    A merge has one colon, mode and blob for each parent. A deletion gives no change.
    """
    commit = ""
    fields = iter(out.split(b"\0"))
    for field in fields:
        text = field.lstrip(b"\n")
        if text.startswith(MARK.encode()):
            commit = text[1:].decode()
        elif text.startswith(b":"):
            blob = text.split()[-2].decode()
            path = os.fsdecode(next(fields))
            if set(blob) != {"0"}:
                yield Change(commit=commit, path=path, blob=blob)
