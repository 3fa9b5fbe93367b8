"""The message of a tag: one line for people, an empty line, JSON, and for a release what changed since the one before.

The JSON ends at the first line that is nothing but ``}``, since it is written over several lines. What follows it is
text for people, and the signature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.canonical import JSON, decode, pretty
from registry.errors import InvalidError
from registry.refs import is_version
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.digest import Digest
    from registry.record import Record
    from registry.refs import Channel, Version

__all__ = [
    "Aim",
    "Promise",
    "assignment_message",
    "is_assignment",
    "read_assignment",
    "read_notes",
    "read_release",
    "release_message",
    "withdrawal_message",
]

_RELEASE = "varietal/release/1"
_ASSIGNMENT = "varietal/assignment/1"
_WITHDRAWAL = "varietal/withdrawal/1"
_RELEASE_KEYS = ("schema", "variant", "version", "stage", "type", "artifact_digest", "weights_digest", "record_digest")
_ASSIGNMENT_KEYS = ("schema", "variant", "channel", "version", "artifact_digest", "rollback")


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """What the tag of a release says that its bytes are.

    Attributes:
        stage: The stage that was released.
        type: ``model``, ``adapter`` or ``report``.
        artifact_digest: Digest of the artifact.
        weights_digest: Digest of its weights; ``None`` for a report.
        record_digest: Digest of the record's bytes.
    """

    stage: str
    type: str
    artifact_digest: Digest
    weights_digest: Digest | None
    record_digest: Digest

    @classmethod
    def of(cls, record: Record) -> Promise:
        """What a release of this record promises."""
        return cls(
            stage=record.stage,
            type=record.artifact.type,
            artifact_digest=record.artifact.digest,
            weights_digest=record.artifact.weights_digest,
            record_digest=record.digest,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """What an assignment says.

    Attributes:
        version: The version; empty where GTO unassigned the channel.
        rollback: Whether it undid the assignment before it.
        artifact: Digest of the release's artifact; ``None`` where GTO made the tag.
    """

    version: str
    rollback: bool
    artifact: Digest | None = None


def release_message(ref: Version, promise: Promise, notes: Sequence[str] = ()) -> str:
    """Message of a release's tag; notes are lines that start with neither ``}`` nor a dash line of a signature."""
    value: JSON = {
        "schema": _RELEASE,
        "variant": ref.variant,
        "version": ref.version,
        "stage": promise.stage,
        "type": promise.type,
        "artifact_digest": str(promise.artifact_digest),
        "weights_digest": None if promise.weights_digest is None else str(promise.weights_digest),
        "record_digest": str(promise.record_digest),
    }
    text = "".join(f"{line}\n" for line in notes)
    return _message(f"{ref.variant} {ref.version}", value) + (f"\n{text}" if text else "")


def read_release(message: str, ref: Version) -> Promise:
    """What the message of a release's tag promises.

    Raises:
        InvalidError: The tag was not made by ``varietal release``, or names another release.
    """
    table = _read(message, str(ref))
    table.only(*_RELEASE_KEYS)
    table.constant("schema", _RELEASE)
    table.constant("variant", ref.variant)
    table.constant("version", ref.version)
    return Promise(
        stage=table.text("stage"),
        type=table.text("type"),
        artifact_digest=table.digest("artifact_digest"),
        weights_digest=table.optional_digest("weights_digest"),
        record_digest=table.digest("record_digest"),
    )


def read_notes(message: str) -> tuple[str, ...]:
    """The lines after the JSON, without empty ones at their ends."""
    _, _, body = message.partition("\n\n")
    text = _unsigned(body)
    end = _json_end(text)
    return tuple(text[end:].strip("\n").split("\n")) if end and text[end:].strip() else ()


def assignment_message(ref: Version, channel: str, promise: Promise, *, rollback: bool) -> str:
    """Message of an assignment's tag."""
    value: JSON = {
        "schema": _ASSIGNMENT,
        "variant": ref.variant,
        "channel": channel,
        "version": ref.version,
        "artifact_digest": str(promise.artifact_digest),
        "rollback": rollback,
    }
    verb = "back to" if rollback else "is"
    return _message(f"{ref.variant} {channel} {verb} {ref.version}", value)


def is_assignment(message: str) -> bool:
    """Whether ``varietal promote`` or ``varietal rollback`` wrote this; GTO writes only text."""
    return f'"{_ASSIGNMENT}"' in message


def read_assignment(message: str, tag: str, channel: Channel) -> Aim:
    """What the message of an assignment's tag says.

    Raises:
        InvalidError: It breaks its schema, or is of another channel.
    """
    table = _read(message, tag)
    table.only(*_ASSIGNMENT_KEYS)
    table.constant("schema", _ASSIGNMENT)
    table.constant("variant", channel.variant)
    table.constant("channel", channel.channel)
    version = table.text("version")
    if not is_version(version):
        raise InvalidError(f"{version!r} is not a version", where=table.where, mend="promote again")
    return Aim(version=version, rollback=table.raw("rollback") is True, artifact=table.digest("artifact_digest"))


def withdrawal_message(ref: Version, reason: str) -> str:
    """Message of the tag that withdraws a release."""
    value: JSON = {"schema": _WITHDRAWAL, "variant": ref.variant, "version": ref.version, "reason": reason}
    return _message(f"{ref.variant} {ref.version} is withdrawn", value)


def _message(line: str, value: JSON) -> str:
    return f"{line}\n\n{pretty(value).decode()}"


def _read(message: str, tag: str) -> Table:
    _, _, body = message.partition("\n\n")
    where = f"tag {tag}"
    if not body.lstrip().startswith("{"):
        raise InvalidError(
            "the tag's message does not say what was released",
            where=where,
            mend="it was made by another tool; make releases with `varietal release` and `varietal promote`",
        )
    text = _unsigned(body)
    return Table(decode(text[: _json_end(text) or len(text)].encode(), where=where), where)


def _json_end(text: str) -> int:
    """Where the JSON ends: after the first line that is nothing but its closing bracket; 0 where there is none."""
    match = re.search(r"^\}[ \t\r]*$", text, re.MULTILINE)
    return match.end() if match else 0


def _unsigned(body: str) -> str:
    """The text before a signature."""
    return re.split(r"^-----BEGIN ", body, maxsplit=1, flags=re.MULTILINE)[0]
