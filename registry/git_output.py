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
    "MESSAGE_FIELDS",
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

MESSAGE_FIELDS = "%00%(contents:subject)%00%(contents:body)%00%(if)%(contents:signature)%(then)signed%(end)"
"""What it is asked for besides, where the messages are wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tag:
    """An annotated tag, or a light one, which has no message.

    Attributes:
        name: Its name.
        target: Commit that it names.
        message: Text, without the signature; empty where messages were not asked for.
        created: When it was made.
        annotated: Whether it is an object of its own.
        signed: Whether it has a signature, of whoever it may be; false where messages were not asked for.
        id: Object id of the tag itself; of what a light one names.
    """

    name: str
    target: str
    message: str
    created: datetime
    annotated: bool
    signed: bool = False
    id: str = ""


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
    """The fields of :data:`TAG_FIELDS`, with those of :data:`MESSAGE_FIELDS` where they were asked for."""
    name, kind, oid, peeled, seconds, *message = fields
    subject, body, signed = message or ("", "", "")
    return Tag(
        name=name,
        target=peeled or oid,
        message=f"{subject}\n\n{body}" if body else subject,
        created=_moment(seconds),
        annotated=kind == "tag",
        signed=bool(signed),
        id=oid,
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
