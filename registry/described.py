"""From a ref to a proven record by signed descriptors alone: the way of a host that has neither git nor DVC.

1. The descriptor of the channel is read, and signed by a trusted key.
2. It is of this variant and channel, has not expired, and its sequence number is not lower than what was seen here.
3. The descriptor of the release is read, signed by a trusted key, and of this variant and version; its digest is the
   one that the channel's descriptor says.
4. The record has the size and the sha256 of the release's descriptor, and says the same artifact and the same files.

What follows is the pull of any record: every file is checked by its sha256 (:mod:`registry.pull`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.descriptor import (
    MAX_CHANNEL_BYTES,
    MAX_RELEASE_BYTES,
    ChannelDescriptor,
    ReleaseDescriptor,
    channel_path,
    object_key,
    release_path,
)
from registry.digest import digest_bytes
from registry.envelope import opened
from registry.errors import DigestMismatchError
from registry.record import Record
from registry.refs import Channel, Version
from registry.verify import Found

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from registry.digest import Digest
    from registry.seen import Seen
    from registry.ssh_key import PublicKey
    from registry.web import WebSource

__all__ = ["Described", "resolve_described"]

_ENVELOPE = 2  # a payload grows when it is written as text within a document, and signatures come beside it


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What a descriptor led to.

    Attributes:
        found: The record, with the steps of the proof.
        objects: Object of each file, by path.
    """

    found: Found
    objects: Mapping[str, str]


def resolve_described(
    ref: Version | Channel, source: WebSource, trusted: Sequence[PublicKey], seen: Seen, now: datetime
) -> Described:
    """The record that a release or a channel stands for, proven by steps 1 to 4.

    Raises:
        NotFoundError: The server has no descriptor, or lacks the record.
        DeniedError: No trusted key signed it, it has expired, is of something else, or an older state than was seen.
        ConflictError: One sequence number stands for two artifacts.
        DigestMismatchError: A descriptor or a record has other bytes than it should.
        InvalidError: A document breaks its schema or is too long.
        TransportError: The server does not answer as it should.
        MachineError: ``ssh-keygen`` is missing, or what was seen cannot be written down.
    """
    steps: list[str] = []
    expected: Digest | None = None
    release = ref if isinstance(ref, Version) else None
    if isinstance(ref, Channel):
        # 1. and 2. The channel.
        channel, signers = _channel(ref, source, trusted)
        where = f"{source.name}/{channel_path(ref)}"
        channel.check_valid(now, where=where)
        seen.take(channel, trusted, where=where)
        release, expected = Version(ref.variant, channel.version), channel.release
        steps += [
            f"1. {where} is signed by {signers}",
            f"2. {ref} is {channel.version}, sequence number {channel.sequence}, good until {channel.valid_until}",
        ]
    assert release is not None  # noqa: S101 - a ref is one or the other
    # 3. The release.
    descriptor, signers = _release(release, source, trusted, expected)
    # 4. The record.
    data = _record(descriptor, source)
    record = Record.from_bytes(data, where=f"{source.name}: the record of {release}")
    objects = descriptor.objects(record)
    steps += [
        f"3. {source.name}/{release_path(release)} is signed by {signers}",
        f"4. the record has {digest_bytes(data)}, artifact {record.artifact.digest}",
    ]
    found = Found(
        ref=ref,
        commit=descriptor.commit,
        version=release.version,
        record=record,
        record_bytes=data,
        listing_oid="",
        steps=tuple(steps),
    )
    return Described(found=found, objects=objects)


def _channel(ref: Channel, source: WebSource, trusted: Sequence[PublicKey]) -> tuple[ChannelDescriptor, str]:
    path, limit = channel_path(ref), _ENVELOPE * MAX_CHANNEL_BYTES
    where = f"{source.name}/{path}"
    payload, signers = opened(source.read(path, limit), trusted, where=where, max_bytes=limit)
    return ChannelDescriptor.from_bytes(payload, ref, where=where), _names(signers)


def _release(
    ref: Version, source: WebSource, trusted: Sequence[PublicKey], expected: Digest | None
) -> tuple[ReleaseDescriptor, str]:
    path, limit = release_path(ref), _ENVELOPE * MAX_RELEASE_BYTES
    where = f"{source.name}/{path}"
    payload, signers = opened(source.read(path, limit), trusted, where=where, max_bytes=limit)
    got = digest_bytes(payload)
    if expected is not None and got != expected:
        raise DigestMismatchError(
            f"the release's descriptor has {got}, the channel's says {expected}",
            where=where,
            mend="pull again in a minute, it may be being published; if it stays, ask who runs the server",
        )
    return ReleaseDescriptor.from_bytes(payload, ref, where=where), _names(signers)


def _record(descriptor: ReleaseDescriptor, source: WebSource) -> bytes:
    record = descriptor.record
    path = object_key(record.oid)
    data = source.read(path, record.size_bytes)
    got = digest_bytes(data)
    if len(data) != record.size_bytes or got != record.digest:
        raise DigestMismatchError(
            f"the record has {got} and {len(data)} bytes, its descriptor says {record.digest} and {record.size_bytes}",
            where=f"{source.name}/{path}",
            mend="have the bytes pushed again from where it was built",
        )
    return data


def _names(signers: Sequence[PublicKey]) -> str:
    return ", ".join(key.fingerprint for key in signers)
