"""What is published: releases and channels, read from the tags of a repository.

A tag's message is read when it is asked for, so a broken one hinders nobody who asks for another. Releases that GTO
made are read too; their messages promise nothing, so they cannot be verified or pulled. Assignments are ordered by
their number, whatever the clocks said, and of one number the one that takes the channel back comes last; those that a
:class:`Judge` refuses are stepped over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol

from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.refs import Channel, TagName, Version, parse_tag
from registry.tag_message import Aim, is_assignment, read_assignment, read_notes, read_release

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from registry.git_output import Tag
    from registry.tag_message import Promise

__all__ = ["Anyone", "Assignment", "Judge", "Published", "Release", "version_order"]

_FIRST_BATCH, _LARGEST_BATCH = 1, 256  # assignments that a judge is asked about at once


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
        return read_release(self.message, Version(self.variant, self.version))

    def notes(self) -> tuple[str, ...]:
        """What changed since the release before, as ``varietal release`` wrote it into the tag."""
        return read_notes(self.message)


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
        signed: Whether the tag has a signature, of whoever it may be.
        id: Object id of the tag.
    """

    variant: str
    channel: str
    number: int
    released: str
    commit: str
    created: datetime
    message: str
    withdrawn: bool
    signed: bool
    id: str

    @property
    def ref(self) -> str:
        """The tag's whole name: ``variant#channel#number``, or GTO's ``variant#channel!#number``."""
        name = TagName(variant=self.variant, channel=self.channel, number=self.number, withdrawn=self.withdrawn)
        return str(name)

    def aim(self) -> Aim:
        """What the tag's message says; where GTO made it, what its commit says.

        Raises:
            InvalidError: The message breaks its schema.
        """
        if self.withdrawn or not is_assignment(self.message):
            return Aim(version=self.released, rollback=False)
        return read_assignment(self.message, self.ref, Channel(self.variant, self.channel))

    def problem(self) -> InvalidError | None:
        """Why the tag's message cannot be read; ``None`` where it can."""
        try:
            self.aim()
        except InvalidError as error:
            return error
        return None


class Judge(Protocol):
    """Says which assignments count."""

    def refusals(self, assignments: Sequence[Assignment]) -> Sequence[str]:
        """For each, why it does not count; empty where it does. What was asked before costs nothing again."""
        ...


class Anyone:
    """Lets every assignment count."""

    def refusals(self, assignments: Sequence[Assignment]) -> Sequence[str]:
        """No refusal for any."""
        return [""] * len(assignments)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """All releases and assignments of a repository.

    Attributes:
        releases: By order of version, by variant.
        assignments: By number, by variant; those that do not count among them.
        withdrawn: Releases that were taken back; they are in ``releases`` too.
        judge: Says which assignments count.
    """

    releases: Mapping[str, tuple[Release, ...]]
    assignments: Mapping[str, tuple[Assignment, ...]]
    withdrawn: frozenset[Version]
    judge: Judge = field(default_factory=Anyone)

    @classmethod
    def read(cls, tags: Iterable[Tag], judge: Judge | None = None) -> Published:
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
                variant: tuple(sorted(found, key=lambda one: (one.number, one.withdrawn)))
                for variant, found in assignments.items()
            },
            withdrawn=frozenset(
                Version(name.variant, name.version) for name, _ in named if name.version and name.withdrawn
            ),
            judge=judge or Anyone(),
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
            ConflictError: The assignment lies on another commit than the release that it names, or means other bytes.
            InvalidError: The message of the assignment breaks its schema.
        """
        assignment = self.current(ref)
        aim = assignment.aim() if assignment is not None else Aim(version="", rollback=False)
        if assignment is None or not aim.version:
            have = ", ".join(self.channels(ref.variant))
            refused = "".join(f"; {line}" for line in self.refused(ref)[:3])
            raise NotFoundError(
                f"{ref} points at nothing{refused}",
                where="tags of the repository",
                mend=f"{ref.variant} has the channels {have}" if have else "`git fetch --tags`, or `varietal promote`",
            )
        found = self.release(Version(ref.variant, aim.version))
        moved = f"lies on another commit than {found.ref}" if found.commit != assignment.commit else ""
        if not moved and aim.artifact is not None and found.promise().artifact_digest != aim.artifact:
            moved = f"means other bytes than {found.ref}"
        if moved:
            raise ConflictError(
                f"{assignment.ref} {moved}",
                where="tags of the repository",
                mend="one of the two was moved: ask who did it, and promote again",
            )
        return found

    def of_channel(self, ref: Channel) -> list[Assignment]:
        """All assignments of a channel, by number; those that do not count among them."""
        return [one for one in self.assignments.get(ref.variant, ()) if one.channel == ref.channel]

    def counted(self, ref: Channel) -> Iterator[Assignment]:
        """The assignments of a channel that count, newest first; no more is judged than is taken."""
        waiting = self.of_channel(ref)[::-1]
        size = _FIRST_BATCH
        while waiting:
            batch, waiting = waiting[:size], waiting[size:]
            refusals = self.judge.refusals(batch)
            yield from (one for one, refusal in zip(batch, refusals, strict=True) if not refusal)
            size = min(size * 8, _LARGEST_BATCH)

    def current(self, ref: Channel) -> Assignment | None:
        """The last assignment of a channel that counts."""
        return next(self.counted(ref), None)

    def refused(self, ref: Channel) -> tuple[str, ...]:
        """What does not count of the assignments after the current one: tag and reason, newest first."""
        current = self.current(ref)
        newer = [*takewhile(lambda one: current is None or one.ref != current.ref, self.of_channel(ref)[::-1])]
        reasons = zip(newer, self.judge.refusals(newer), strict=True)
        return tuple(f"{one.ref} does not count: {reason}" for one, reason in reasons)

    def channels(self, variant: str) -> dict[str, str]:
        """Version by channel, of the channels that point at one."""
        aims = {one.channel: one.aim() for one in self._last([variant]) if one.problem() is None}
        return {channel: aim.version for channel, aim in sorted(aims.items()) if aim.version}

    def problems(self) -> tuple[InvalidError, ...]:
        """Why it is not known what a channel points at, of those whose last assignment cannot be read."""
        found = (one.problem() for one in self._last(sorted(self.assignments)))
        return tuple(problem for problem in found if problem is not None)

    def warnings(self) -> tuple[str, ...]:
        """Every assignment that is stepped over since it does not count, of all channels."""
        names = [Channel(one.variant, one.channel) for one in self._newest(sorted(self.assignments))]
        self._ask(sorted(self.assignments))
        return tuple(line for name in names for line in self.refused(name))

    def _last(self, variants: Iterable[str]) -> list[Assignment]:
        """The last assignment of each channel that counts."""
        names = [*variants]
        self._ask(names)
        found = [self.current(Channel(one.variant, one.channel)) for one in self._newest(names)]
        return [one for one in found if one is not None]

    def _ask(self, variants: Sequence[str]) -> None:
        """Have the newest assignment of every channel judged at once: one by one takes far longer."""
        self.judge.refusals(self._newest(variants))

    def _newest(self, variants: Iterable[str]) -> list[Assignment]:
        """The assignment with the highest number of each channel, whether it counts or not."""
        newest = {(name, one.channel): one for name in variants for one in self.assignments.get(name, ())}
        return [*newest.values()]

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
        signed=tag.signed,
        id=tag.id,
    )
