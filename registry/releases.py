"""Releases and channels: rules on values. What may be released, what a channel points at, what a rollback goes to.

History is append-only: a release never moves, a rollback is one more assignment, and a release that must not be used
any more is withdrawn by one more tag.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import ConflictError, Error, NotFoundError, RefusedError
from registry.published import version_order
from registry.refs import Channel, TagName, Version
from registry.tag_message import Promise, assignment_message, release_message, withdrawal_message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from registry.gate import Judgement
    from registry.published import Published, Release
    from registry.record import Record
    from registry.tag_message import Aim

__all__ = ["NewTag", "Proposal", "disagreements", "promote", "release", "release_all", "rollback", "withdraw"]

_LAST_NUMBER = 10**18 - 1  # the most digits that the grammar of tags reads


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTag:
    """A tag to make: its name, its commit, its message."""

    name: str
    commit: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What is to be released, with all facts that decide whether it may.

    Attributes:
        ref: The variant and its new version.
        commit: The commit to tag.
        records: Records of the variant at that commit, by stage.
        stage: The stage that the manifest releases.
        judgements: What its checks said.
        on_main: Whether the commit is on the main branch.
        changes: Paths that differ from the commit.
        stale: Why the lock is not what the manifest asks for; empty where it is.
        missing: What the remote lacks of the artifact; empty where all of it is there.
        shallow: Whether the history here is cut off.
        notes: What changed since the release before, for the tag.
    """

    ref: Version
    commit: str
    records: Mapping[str, Record]
    stage: str
    judgements: Sequence[Judgement]
    on_main: bool
    changes: Sequence[str]
    stale: Sequence[str]
    missing: Sequence[str]
    shallow: bool = False
    notes: Sequence[str] = ()


def release_all(proposals: Sequence[Proposal], published: Published) -> tuple[NewTag, ...]:
    """The tags of several new releases: all of them, or none where one may not be made.

    Raises:
        RefusedError: More than one may not be made, whatever the reasons.
        Error: One may not be made: what :func:`release` raises for it.
    """
    tags: list[NewTag] = []
    problems: list[Error] = []
    for proposal in proposals:
        try:
            tags.append(release(proposal, published))
        except Error as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise RefusedError(
            "; ".join(problem.what for problem in problems),
            where=problems[0].where,
            mend="mend each of these, commit, and release all of them again; no tag was made",
        )
    return tuple(tags)


def release(proposal: Proposal, published: Published) -> NewTag:
    """The tag of a new release.

    Raises:
        ConflictError: The version exists, or the commit has a version of this variant already.
        NotFoundError: The commit has no record of the released stage.
        RefusedError: A rule is broken; all that are, are listed.
    """
    ref = proposal.ref
    existing = published.releases.get(ref.variant, ())
    for found in existing:
        if found.version == ref.version:
            raise ConflictError(
                f"{ref} exists",
                where=f"commit {found.commit[:12]}",
                mend="a release never moves: take the next version",
            )
        if found.commit == proposal.commit:
            raise ConflictError(
                f"{found.ref} is this commit already",
                where=f"commit {found.commit[:12]}",
                mend=f"promote it: `varietal promote {found.ref} CHANNEL`; a commit has one version of a variant",
            )
    record = proposal.records.get(proposal.stage)
    if record is None:
        raise NotFoundError(
            f"the commit has no record of {ref.variant}:{proposal.stage}",
            where=f"commit {proposal.commit[:12]}",
            mend="build it with `dvc repro` and commit models/",
        )
    if refusals := [*_refusals(proposal, existing)]:
        raise RefusedError(
            f"{ref} is not released: " + "; ".join(refusals),
            where=f"commit {proposal.commit[:12]}",
            mend="mend each of these, commit, and release again; no tag was made",
        )
    message = release_message(ref, Promise.of(record), proposal.notes)
    return NewTag(name=str(ref), commit=proposal.commit, message=message)


def promote(ref: Version, channel: str, published: Published) -> NewTag:
    """The tag that points a channel at a release; an assignment that cannot be read or does not count is stepped over.

    Raises:
        NotFoundError: There is no such release, or it was withdrawn.
        ConflictError: The channel points at it already.
        InvalidError: The channel's name breaks the grammar, or the release was not made by ``varietal release``.
    """
    found = published.release(ref)
    target = Channel(ref.variant, channel)
    now = published.current(target)
    if now is not None and now.problem() is None and now.aim().version == ref.version:
        raise ConflictError(f"{target} points at {ref.version} already", where=now.ref, mend="nothing needs to be done")
    return _assign(found, target, published, rollback=False)


def rollback(ref: Channel, published: Published) -> NewTag:
    """The tag that points a channel back at the release before; a second rollback goes one further back.

    An assignment that cannot be read, or that no promoter signed, counts for nothing; where it is the last, what came
    before one that cannot be read is gone back to.

    Raises:
        NotFoundError: Nothing came before, or what did was withdrawn.
    """
    made = [*published.counted(ref)][::-1]
    aims = [one.aim() for one in made if one.problem() is None]
    now = aims[-1].version if made and made[-1].problem() is None else ""
    earlier = [version for version in _undo_stack(aims) if version != now]
    if not earlier:
        raise NotFoundError(
            f"{ref} pointed at nothing before",
            where="tags of the repository",
            mend="promote the version that it should be",
        )
    return _assign(published.release(Version(ref.variant, earlier[-1])), ref, published, rollback=True)


def withdraw(ref: Version, reason: str, published: Published, *, in_use: bool = False) -> NewTag:
    """The tag that takes a release back: it is listed from then on, and neither pulled nor promoted.

    Args:
        ref: The release.
        reason: Why, in one line; it is kept in the tag.
        published: What the repository has published.
        in_use: Whether a channel may point at it; pulls of that channel fail from then on.

    Raises:
        NotFoundError: There is no such release.
        ConflictError: It was withdrawn already.
        RefusedError: A channel points at it.
    """
    if ref in published.withdrawn:
        raise ConflictError(f"{ref} was withdrawn already", where=f"tag {ref}!", mend="nothing needs to be done")
    found = published.release(ref)
    pointing = [name for name, version in published.channels(ref.variant).items() if version == ref.version]
    if pointing and not in_use:
        raise RefusedError(
            f"{', '.join(pointing)} of {ref.variant} is {ref.version}",
            where=f"tag {ref}",
            mend=f"`varietal rollback {ref.variant}#{pointing[0]}`, or promote another version, first; "
            "--in-use withdraws it nevertheless, and pulls of the channel fail",
        )
    name = TagName(variant=ref.variant, version=ref.version, withdrawn=True)
    return NewTag(name=str(name), commit=found.commit, message=withdrawal_message(ref, " ".join(reason.split())))


def disagreements(records: Mapping[str, Record]) -> tuple[str, ...]:
    """Where one record of a variant names another as its input, and that one has another artifact now."""
    by_ref = {record.ref: record for record in records.values()}
    return tuple(
        f"{record.ref} was made from another {one.source}"
        for record in records.values()
        for one in record.inputs
        if one.source in by_ref and by_ref[one.source].artifact.digest != one.digest
    )


def _undo_stack(aims: Iterable[Aim]) -> list[str]:
    """Versions that a channel would fall back through; a rollback takes one off, a version stands once in a row."""
    stack: list[str] = []
    for one in aims:
        if one.rollback and one.version in stack:
            while stack[-1] != one.version:
                stack.pop()
        elif one.version and stack[-1:] != [one.version]:
            stack.append(one.version)
    return stack


def _assign(found: Release, target: Channel, published: Published, *, rollback: bool) -> NewTag:
    ref = Version(found.variant, found.version)
    name = TagName(variant=found.variant, channel=target.channel, number=_next_number(target, published))
    message = assignment_message(ref, target.channel, found.promise(), rollback=rollback)
    return NewTag(name=str(name), commit=found.commit, message=message)


def _next_number(target: Channel, published: Published) -> int:
    """One more than any assignment of the variant has, as GTO counts.

    Where somebody used the numbers up, one more than this channel's current assignment has: a number that is free.
    """
    taken = {one.number for one in published.assignments.get(target.variant, ())}
    number = max(taken, default=0) + 1
    if number <= _LAST_NUMBER:
        return number
    current = published.current(target)
    number = current.number + 1 if current is not None else 1
    while number in taken:
        number += 1
    return number


def _refusals(proposal: Proposal, existing: Sequence[Release]) -> Iterable[str]:
    """Every rule that the proposal breaks."""
    newest = existing[-1].version if existing else ""
    if newest and version_order(proposal.ref.version) < version_order(newest):
        yield f"{proposal.ref.version} comes before {newest}, which is out"
    if proposal.shallow:
        yield "history is cut off here, so tags and ancestors are missing: `git fetch --unshallow --tags`"
    elif not proposal.on_main:
        yield "the commit is not on the main branch (that of the origin, where there is one; fetch and push first)"
    if proposal.changes:
        yield f"the work tree differs from the commit: {_some(proposal.changes)}"
    if proposal.stale:
        yield f"the lock is stale: {_some(proposal.stale)}"
    yield from disagreements(proposal.records)
    yield from (judgement.reason for judgement in proposal.judgements if not judgement.passed)
    if proposal.missing:
        yield f"the remote lacks {_some(proposal.missing)}: run `dvc push`"


def _some(items: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest
