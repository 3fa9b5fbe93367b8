"""What is published: releases and channels, read from the tags of a repository.

The message of a tag is one line for people, an empty line, and JSON. It is read when it is asked for, so a broken one
hinders nobody who asks for another. Releases that GTO made are read too; their
messages promise nothing, so they cannot be verified or pulled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.canonical import JSON, decode, pretty
from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.refs import Channel, TagName, Version, is_version, parse_tag
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from registry.digest import Digest
    from registry.git_output import Tag
    from registry.record import Record

__all__ = [
    "Aim",
    "Assignment",
    "Promise",
    "Published",
    "Release",
    "assignment_message",
    "release_message",
    "version_order",
]

_RELEASE = "varietal/release/1"
_ASSIGNMENT = "varietal/assignment/1"
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
class Release:
    """A version of a variant: a tag on the commit that has its record."""

    variant: str
    version: str
    commit: str
    created: datetime
    message: str

    @property
    def ref(self) -> str:
        """``variant@version``, the name of the tag."""
        return f"{self.variant}@{self.version}"

    def promise(self) -> Promise:
        """What the tag's message says.

        Raises:
            InvalidError: The tag was not made by ``varietal release``, or names another release.
        """
        table = _read_message(self.message, self.ref)
        table.only(*_RELEASE_KEYS)
        table.constant("schema", _RELEASE)
        table.constant("variant", self.variant)
        table.constant("version", self.version)
        return Promise(
            stage=table.text("stage"),
            type=table.text("type"),
            artifact_digest=table.digest("artifact_digest"),
            weights_digest=table.optional_digest("weights_digest"),
            record_digest=table.digest("record_digest"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """What an assignment says.

    Attributes:
        version: The version; empty where GTO unassigned the channel.
        rollback: Whether it undid the assignment before it.
    """

    version: str
    rollback: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """A channel was pointed at a version.

    Attributes:
        variant: The variant.
        channel: The channel.
        number: Counted from 1 over all channels of the variant.
        released: The version on its commit, which is what one that GTO made means; empty where there is none, or where
            GTO unassigned the channel.
        commit: Commit of the tag.
        created: When it was made.
        message: Message of the tag.
        withdrawn: Whether GTO unassigned the channel.
    """

    variant: str
    channel: str
    number: int
    released: str
    commit: str
    created: datetime
    message: str
    withdrawn: bool

    @property
    def ref(self) -> str:
        """``variant#channel#number``, the name of the tag."""
        return f"{self.variant}#{self.channel}#{self.number}"

    def aim(self) -> Aim:
        """What the tag's message says; where GTO made it, what its commit says.

        Raises:
            InvalidError: The message breaks its schema.
        """
        if self.withdrawn or f'"{_ASSIGNMENT}"' not in self.message:
            return Aim(version=self.released, rollback=False)
        table = _read_message(self.message, self.ref)
        table.only(*_ASSIGNMENT_KEYS)
        table.constant("schema", _ASSIGNMENT)
        table.constant("variant", self.variant)
        table.constant("channel", self.channel)
        version = table.text("version")
        if not is_version(version):
            raise InvalidError(f"{version!r} is not a version", where=table.where, mend="promote again")
        return Aim(version=version, rollback=table.raw("rollback") is True)

    def problem(self) -> InvalidError | None:
        """Why the tag's message cannot be read; ``None`` where it can."""
        try:
            self.aim()
        except InvalidError as error:
            return error
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """All releases and assignments of a repository.

    Attributes:
        releases: By order of version, by variant.
        assignments: By number, by variant.
        withdrawn: Releases that GTO deregistered; they are in ``releases`` too.
    """

    releases: Mapping[str, tuple[Release, ...]]
    assignments: Mapping[str, tuple[Assignment, ...]]
    withdrawn: frozenset[Version]

    @classmethod
    def read(cls, tags: Iterable[Tag]) -> Published:
        """Sort out a repository's tags, those not of ours left out; no message is read yet."""
        named = [(name, tag) for tag in tags if tag.annotated and (name := parse_tag(tag.name)) is not None]
        releases: dict[str, list[Release]] = {}
        for name, tag in named:
            if name.version and not name.withdrawn:
                releases.setdefault(name.variant, []).append(_read_release(name, tag))
        ordered = {
            variant: tuple(sorted(found, key=lambda one: version_order(one.version)))
            for variant, found in releases.items()
        }
        assignments: dict[str, list[Assignment]] = {}
        for name, tag in named:
            if name.channel:
                assignments.setdefault(name.variant, []).append(
                    _read_assignment(name, tag, ordered.get(name.variant, ()))
                )
        return cls(
            releases=ordered,
            assignments={
                variant: tuple(sorted(found, key=lambda one: one.number)) for variant, found in assignments.items()
            },
            withdrawn=frozenset(
                Version(name.variant, name.version) for name, _ in named if name.version and name.withdrawn
            ),
        )

    def release(self, ref: Version) -> Release:
        """One release.

        Raises:
            NotFoundError: There is none of that version, or it was withdrawn.
        """
        for found in self.releases.get(ref.variant, ()):
            if found.version == ref.version:
                return self._not_withdrawn(found)
        have = ", ".join(one.version for one in self.releases.get(ref.variant, ())[-5:])
        raise NotFoundError(
            f"there is no release {ref}",
            where="tags of the repository",
            mend=f"{ref.variant} has {have}" if have else "`git fetch --tags`, or make it: `varietal release`",
        )

    def channel(self, ref: Channel) -> Release:
        """The release that a channel points at.

        Raises:
            NotFoundError: The channel points at nothing.
            ConflictError: The assignment lies on another commit than the release that it names.
            InvalidError: The message of the assignment breaks its schema.
        """
        assignment = self.current(ref)
        version = assignment.aim().version if assignment is not None else ""
        if assignment is None or not version:
            have = ", ".join(self.channels(ref.variant))
            raise NotFoundError(
                f"{ref} points at nothing",
                where="tags of the repository",
                mend=f"{ref.variant} has the channels {have}" if have else "`git fetch --tags`, or `varietal promote`",
            )
        found = self.release(Version(ref.variant, version))
        if found.commit != assignment.commit:
            raise ConflictError(
                f"{assignment.ref} lies on another commit than {found.ref}",
                where="tags of the repository",
                mend="one of the two was moved: ask who did it, and promote again",
            )
        return found

    def current(self, ref: Channel) -> Assignment | None:
        """The last assignment of a channel."""
        found = [one for one in self.assignments.get(ref.variant, ()) if one.channel == ref.channel]
        return found[-1] if found else None

    def channels(self, variant: str) -> dict[str, str]:
        """Version by channel, of the channels that point at one."""
        aims = {one.channel: one.aim() for one in self._last(variant) if one.problem() is None}
        return {channel: aim.version for channel, aim in sorted(aims.items()) if aim.version}

    def problems(self) -> tuple[InvalidError, ...]:
        """Why it is not known what a channel points at, of those whose last assignment cannot be read."""
        found = (one.problem() for variant in sorted(self.assignments) for one in self._last(variant))
        return tuple(problem for problem in found if problem is not None)

    def _last(self, variant: str) -> Iterable[Assignment]:
        """The last assignment of each channel."""
        return {one.channel: one for one in self.assignments.get(variant, ())}.values()

    def _not_withdrawn(self, found: Release) -> Release:
        if Version(found.variant, found.version) in self.withdrawn:
            raise NotFoundError(
                f"{found.ref} was withdrawn", where=f"tag {found.ref}!", mend="take another version of it"
            )
        return found


def version_order(version: str) -> tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]:
    """Sort key of a version by the precedence of semantic versioning 2.0.0: pre-releases come before their release."""
    numbers, _, rest = version.removeprefix("v").partition("-")
    major, minor, patch = map(int, numbers.split("."))
    parts = tuple(_part_order(part) for part in rest.split(".")) if rest else ()
    return (major, minor, patch), not rest, parts


def _part_order(part: str) -> tuple[bool, int, str]:
    """Numbers come before words."""
    return (False, int(part), "") if part.isdigit() else (True, 0, part)


def release_message(ref: Version, promise: Promise) -> str:
    """Message of a release's tag."""
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
    return _message(f"{ref.variant} {ref.version}", value)


def _message(line: str, value: JSON) -> str:
    return f"{line}\n\n{pretty(value).decode()}"


def assignment_message(found: Release, target: Channel, *, rollback: bool) -> str:
    """Message of an assignment's tag.

    Raises:
        InvalidError: The release was not made by ``varietal release``.
    """
    value: JSON = {
        "schema": _ASSIGNMENT,
        "variant": found.variant,
        "channel": target.channel,
        "version": found.version,
        "artifact_digest": str(found.promise().artifact_digest),
        "rollback": rollback,
    }
    verb = "back to" if rollback else "is"
    return _message(f"{found.variant} {target.channel} {verb} {found.version}", value)


def _read_message(message: str, tag: str) -> Table:
    _, _, body = message.partition("\n\n")
    where = f"tag {tag}"
    if not body.lstrip().startswith("{"):
        raise InvalidError(
            "the tag's message does not say what was released",
            where=where,
            mend="it was made by another tool; make releases with `varietal release` and `varietal promote`",
        )
    return Table(decode(_unsigned(body).encode(), where=where), where)


def _unsigned(body: str) -> str:
    """The text before a signature."""
    return re.split(r"^-----BEGIN ", body, maxsplit=1, flags=re.MULTILINE)[0]


def _read_release(name: TagName, tag: Tag) -> Release:
    return Release(
        variant=name.variant, version=name.version, commit=tag.target, created=tag.created, message=tag.message
    )


def _read_assignment(name: TagName, tag: Tag, releases: Sequence[Release]) -> Assignment:
    released = "" if name.withdrawn else next((one.version for one in releases if one.commit == tag.target), "")
    return Assignment(
        variant=name.variant,
        channel=name.channel,
        number=name.number,
        released=released,
        commit=tag.target,
        created=tag.created,
        message=tag.message,
        withdrawn=name.withdrawn,
    )
