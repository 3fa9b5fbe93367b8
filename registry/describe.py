"""Puts signed descriptors on the remote, after the tag: of a release, and of a channel with the release it points at.

Content first, listing last: every object of the release is on the remote before its descriptor is, and that before the
descriptor of a channel.

Several may publish at once. A channel's number is that of the newest assignment that the origin has right before it is
signed; after it is written, it is read again, and the origin asked again: of two who write at the same time, the one
with the older state finds that out, and says so instead of ending well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from registry.artifact import LISTING
from registry.canonical import MAX_BYTES
from registry.descriptor import (
    MAX_CHANNEL_BYTES,
    MAX_RELEASE_BYTES,
    ChannelDescriptor,
    DescribedFile,
    ReleaseDescriptor,
    channel_path,
    release_path,
)
from registry.digest import digest_bytes
from registry.envelope import opened, seal
from registry.errors import ConflictError, DeniedError, InvalidError, RefusedError
from registry.lock import content_md5
from registry.mainline import check_on_main
from registry.origin import compare_with_origin
from registry.refs import Channel, Version
from registry.resolve import resolve
from registry.signers import read_published
from registry.ssh_signature import public_key_of
from registry.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from registry.history import Repository
    from registry.published import Assignment
    from registry.remote import Source
    from registry.remote_files import RemoteFiles
    from registry.store import Store
    from registry.verify import Found

__all__ = ["Publisher", "describe"]

_ENVELOPE = 2  # as for who reads it
_TRIES = 3  # writes of a descriptor that somebody else with an older state overwrites


@dataclass(frozen=True, kw_only=True, slots=True)
class Publisher:
    """Where descriptors go, and who signs them.

    Attributes:
        source: The remote's objects.
        files: The same remote's named files.
        store: Local content store.
        keys: Keys to sign with; each signs every descriptor.
        valid_days: How long a channel's descriptor is good.
        say: Tells the person at the terminal.
    """

    source: Source
    files: RemoteFiles
    store: Store
    keys: Sequence[Path]
    valid_days: int
    say: Callable[[str], None]


def describe(repository: Repository, ref: Version | Channel, publisher: Publisher, now: datetime) -> tuple[str, ...]:
    """Write the descriptors that a ref needs.

    Returns:
        Paths on the remote that were written, in that order; what was there already is left out.

    Raises:
        NotFoundError: There is no such release, or the channel points at nothing.
        RefusedError: The remote lacks bytes of the release, or its commit is not on the main branch.
        ConflictError: The remote has a descriptor of ours with a higher sequence number, or of another artifact; or the
            channel was moved in the meantime.
        DeniedError: A key cannot be used, or the remote cannot be written.
        TransportError: The remote does not answer.
        Error: The release is not proven: what :func:`registry.resolve.resolve` raises.
    """
    for key in publisher.keys:
        public_key_of(key)  # refuse before anything is read
    if isinstance(ref, Version):
        return _describe_release(ref, _resolve_on_main(repository, ref), publisher)[1]
    published = read_published(repository, ref.variant)
    release, assignment = published.channel(ref), published.current(ref)
    assert assignment is not None  # noqa: S101 - else the channel would point at nothing
    version = Version(release.variant, release.version)
    found = _resolve_on_main(repository, version)
    descriptor, written = _describe_release(version, found, publisher)
    _check_newest(repository, ref, assignment, publisher, written="")
    channel = ChannelDescriptor(
        ref=ref,
        sequence=assignment.number,
        version=release.version,
        release=descriptor.digest,
        artifact_digest=found.record.artifact.digest,
        issued=now,
        valid_until=now + timedelta(days=publisher.valid_days),
    )
    path = channel_path(ref)
    _write_channel(channel, path, publisher)
    _check_newest(repository, ref, assignment, publisher, written=path)
    return (*written, path)


def _resolve_on_main(repository: Repository, ref: Version) -> Found:
    found = resolve(repository, ref)
    check_on_main(f"{ref} is not described", found.off_main)
    return found


def _check_newest(
    repository: Repository, ref: Channel, assignment: Assignment, publisher: Publisher, *, written: str
) -> None:
    """See that a channel's assignment is the newest still, by the origin's tags and by those here.

    Args:
        repository: Where the tags are.
        ref: The channel.
        assignment: What its descriptor is made of.
        publisher: Who publishes.
        written: What was written of it already; empty where nothing was.
    """
    again = f"`git fetch --tags` and `varietal describe '{ref}'` again"
    mend = f"{written} says the older state until then: {again}" if written else f"{again}; nothing was written of it"
    try:
        compare_with_origin(repository, [ref.variant], publisher.say)
    except ConflictError as error:
        raise ConflictError(error.what, where=error.where, mend=mend) from error
    current = read_published(repository, ref.variant).current(ref)
    if current is None or (current.ref, current.id) != (assignment.ref, assignment.id):
        raise ConflictError(
            f"{ref} was moved in the meantime: {current.ref if current is not None else 'nothing'} is its newest tag",
            where=assignment.ref,
            mend=mend,
        )


def _describe_release(ref: Version, found: Found, publisher: Publisher) -> tuple[ReleaseDescriptor, tuple[str, ...]]:
    descriptor = _descriptor(ref, found, publisher)
    path, payload = release_path(ref), descriptor.to_bytes()
    there, by_all = _signed_by_us(path, MAX_RELEASE_BYTES, publisher)
    if there is not None:
        old = ReleaseDescriptor.from_bytes(there, ref, where=path)
        if old.artifact_digest != descriptor.artifact_digest:
            raise ConflictError(
                f"{ref} was described as {old.artifact_digest}, its tag says {descriptor.artifact_digest}",
                where=f"{publisher.files.name}: {path}",
                mend="a release never moves: find out which is right",
            )
        if there == payload and by_all:
            return descriptor, ()
    publisher.files.write(path, seal(payload, publisher.keys))
    return descriptor, (path,)


def _descriptor(ref: Version, found: Found, publisher: Publisher) -> ReleaseDescriptor:
    """What describes a release whose bytes are all on the remote."""
    record = found.record
    objects = Transfer((publisher.source,), publisher.store, publisher.say).read_listing(found.listing_oid, record)
    record_oid = content_md5(found.record_bytes)
    needed = {**objects, "the record": record_oid}
    there = publisher.source.exists(needed.values())
    if missing := sorted(path for path, oid in needed.items() if oid not in there):
        raise RefusedError(
            f"{ref} is not described: the remote lacks {', '.join(missing[:5])}",
            where=publisher.source.name,
            mend="run `dvc push` where it was built",
        )
    files = [
        DescribedFile(path=file.path, size_bytes=file.size_bytes, digest=file.digest, oid=objects[file.path])
        for file in record.artifact.files
    ]
    files.append(_listing(found, objects, publisher))
    return ReleaseDescriptor(
        ref=ref,
        commit=found.commit,
        stage=record.stage,
        type=record.artifact.type,
        artifact_digest=record.artifact.digest,
        weights_digest=record.artifact.weights_digest,
        record=DescribedFile(
            path=f"{record.stage}.json",
            size_bytes=len(found.record_bytes),
            digest=digest_bytes(found.record_bytes),
            oid=record_oid,
        ),
        files=tuple(sorted(files, key=lambda file: file.path)),
    )


def _listing(found: Found, objects: Mapping[str, str], publisher: Publisher) -> DescribedFile:
    """``artifact.json``, whose size no record tells."""
    size_bytes, oid = 0, objects[LISTING]
    with publisher.source.open(oid, 0) as stream:
        while size_bytes <= MAX_BYTES and (block := stream.read(1 << 20)):
            size_bytes += len(block)
    return DescribedFile(path=LISTING, size_bytes=size_bytes, digest=found.record.artifact.listing, oid=oid)


def _write_channel(channel: ChannelDescriptor, path: str, publisher: Publisher) -> None:
    """Write it, and see that it stands: what an older state overwrote is written again."""
    _check_rising(channel, path, publisher)
    for _ in range(_TRIES):
        publisher.files.write(path, seal(channel.to_bytes(), publisher.keys))
        if _check_rising(channel, path, publisher) == channel.sequence:
            return
    raise ConflictError(
        f"the descriptor of {channel.ref} was overwritten {_TRIES} times while it was written",
        where=f"{publisher.files.name}: {path}",
        mend="find out who else writes there, and describe again",
    )


def _check_rising(channel: ChannelDescriptor, path: str, publisher: Publisher) -> int:
    """Hosts refuse a lower number than they saw, so one is never published; the number that is there, 0 for none."""
    there, _ = _signed_by_us(path, MAX_CHANNEL_BYTES, publisher)
    if there is None:
        return 0
    old = ChannelDescriptor.from_bytes(there, channel.ref, where=path)
    same = old.sequence == channel.sequence and old.artifact_digest != channel.artifact_digest
    if old.sequence > channel.sequence or same:
        raise ConflictError(
            f"{channel.ref} was described with sequence number {old.sequence}, its tags here say {channel.sequence}",
            where=f"{publisher.files.name}: {path}",
            mend="`git fetch --tags`; if no tag is missing, promote the version once more, which takes a new number",
        )
    return old.sequence


def _signed_by_us(path: str, max_bytes: int, publisher: Publisher) -> tuple[bytes | None, bool]:
    """The payload that is there now, where one of our keys signed it, and whether all did; what others wrote goes."""
    data = publisher.files.read(path, _ENVELOPE * max_bytes)
    if data is None:
        return None, False
    keys = [public_key_of(key) for key in publisher.keys]
    try:
        payload, signers = opened(data, keys, where=path, max_bytes=_ENVELOPE * max_bytes)
    except (InvalidError, DeniedError) as error:
        publisher.say(f"{path} on {publisher.files.name} is replaced: {error.what}")
        return None, False
    return payload, len(set(signers)) == len(set(keys))
