"""Release and channel descriptors: what a host without git needs to pull. Values and rules, no I/O.

A release descriptor lists the files of one release, with sha256, size and the key of each object on the remote. A
channel descriptor points at one by its digest, and has

- a sequence number that only rises: the number of the assignment in git. A host refuses one that is lower than it saw;
- a time until which it is good: a server that is frozen, or that withholds news, is noticed then;
- its variant and channel inside, as a release has its variant and version: none passes for another's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, get_args

from registry.artifact import LISTING, ArtifactType, check_path
from registry.canonical import JSON, MAX_BYTES, decode, encode
from registry.digest import Digest, digest_bytes
from registry.errors import ConflictError, DeniedError, InvalidError
from registry.refs import Channel, Version, check_version
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.record import Record

__all__ = [
    "MAX_CHANNEL_BYTES",
    "MAX_RELEASE_BYTES",
    "ChannelDescriptor",
    "DescribedFile",
    "ReleaseDescriptor",
    "Sighting",
    "channel_path",
    "check_newer",
    "object_key",
    "release_path",
]

MAX_CHANNEL_BYTES = 64 << 10
MAX_RELEASE_BYTES = 16 << 20

_RELEASE = "varietal/descriptor/release/1"
_CHANNEL = "varietal/descriptor/channel/1"
_KEY = re.compile(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30})")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_FOLDER = "varietal"
_MEND = "do not use it; have it published again: `varietal describe`"


def release_path(ref: Version) -> str:
    """Where a release's descriptor lies on a remote."""
    return f"{_FOLDER}/{ref.variant}/releases/{ref.version}.json"


def channel_path(ref: Channel) -> str:
    """Where a channel's descriptor lies on a remote."""
    return f"{_FOLDER}/{ref.variant}/channels/{ref.channel}.json"


def object_key(oid: str) -> str:
    """Where DVC keeps an object on a remote."""
    return f"files/md5/{oid[:2]}/{oid[2:]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DescribedFile:
    """A file of an artifact, and which object of the remote it is.

    Attributes:
        path: Path in the folder.
        size_bytes: Its size.
        digest: Digest of its bytes.
        oid: DVC's name of the object.
    """

    path: str
    size_bytes: int
    digest: Digest
    oid: str

    def to_dict(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        key = object_key(self.oid)
        return {"path": self.path, "size_bytes": self.size_bytes, "digest": str(self.digest), "key": key}

    @classmethod
    def from_table(cls, table: Table) -> DescribedFile:
        """Read one entry.

        Raises:
            InvalidError: A key is missing or unknown, a path leaves the folder, or the object's key is none of DVC's.
        """
        table.only("path", "size_bytes", "digest", "key")
        key = table.text("key")
        match = _KEY.fullmatch(key)
        if match is None:
            raise InvalidError(f"{key!r} is no key of an object", where=table.where, mend=_MEND)
        return cls(
            path=check_path(table.text("path"), where=table.where),
            size_bytes=table.count("size_bytes"),
            digest=table.digest("digest"),
            oid=match[1] + match[2],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseDescriptor:
    """One release.

    Attributes:
        ref: The variant and its version.
        commit: The commit that was tagged; nothing is checked by it.
        stage: The stage that was released.
        type: ``model``, ``adapter`` or ``report``.
        artifact_digest: Digest of the artifact.
        weights_digest: Digest of its weights; ``None`` for a report.
        record: The record of the artifact.
        files: Files of the artifact, ``artifact.json`` among them, sorted by path.
    """

    ref: Version
    commit: str
    stage: str
    type: ArtifactType
    artifact_digest: Digest
    weights_digest: Digest | None
    record: DescribedFile
    files: tuple[DescribedFile, ...]

    def to_bytes(self) -> bytes:
        """The payload: the same for the same release, whenever it is described."""
        return encode(
            {
                "schema": _RELEASE,
                "variant": self.ref.variant,
                "version": self.ref.version,
                "commit": self.commit,
                "stage": self.stage,
                "type": self.type,
                "artifact_digest": str(self.artifact_digest),
                "weights_digest": None if self.weights_digest is None else str(self.weights_digest),
                "record": self.record.to_dict(),
                "files": [file.to_dict() for file in self.files],
            }
        )

    @property
    def digest(self) -> Digest:
        """Digest of the payload, by which a channel points at it."""
        return digest_bytes(self.to_bytes())

    @classmethod
    def from_bytes(cls, payload: bytes, ref: Version, *, where: str) -> ReleaseDescriptor:
        """Read a payload that is said to describe a release.

        Raises:
            InvalidError: It breaks the schema.
            DeniedError: It describes another release.
        """
        table = _canonical(payload, where, MAX_RELEASE_BYTES)
        table.only(
            *("schema", "variant", "version", "commit", "stage", "type"),
            *("artifact_digest", "weights_digest", "record", "files"),
        )
        table.constant("schema", _RELEASE)
        _check_name(f"{table.text('variant')}@{table.text('version')}", str(ref), where)
        commit = table.text("commit")
        if _COMMIT.fullmatch(commit) is None:
            raise InvalidError(f"{commit!r} is no commit", where=where, mend=_MEND)
        kind: ArtifactType = table.choice("type", get_args(ArtifactType))
        record = DescribedFile.from_table(table.table("record"))
        if record.size_bytes > MAX_BYTES:
            raise InvalidError(f"a record of {record.size_bytes} bytes", where=where, mend=_MEND)
        return cls(
            ref=ref,
            commit=commit,
            stage=table.text("stage"),
            type=kind,
            artifact_digest=table.digest("artifact_digest"),
            weights_digest=table.optional_digest("weights_digest"),
            record=record,
            files=tuple(DescribedFile.from_table(row) for row in table.rows("files")),
        )

    def objects(self, record: Record) -> dict[str, str]:
        """Object of each file, by path; the record must say the same of every file.

        Raises:
            InvalidError: The record is of another artifact or of other files.
        """
        said = record.artifact
        files = {(file.path, file.size_bytes, file.digest) for file in self.files if file.path != LISTING}
        listings = [file.digest for file in self.files if file.path == LISTING]
        agrees = (
            (record.variant, record.stage, said.type) == (self.ref.variant, self.stage, self.type)
            and (said.digest, said.weights_digest) == (self.artifact_digest, self.weights_digest)
            and files == {(file.path, file.size_bytes, file.digest) for file in said.files}
            and listings == [said.listing]
            and len(files) + 1 == len(self.files)
        )
        if not agrees:
            raise InvalidError("the descriptor and the record contradict each other", where=str(self.ref), mend=_MEND)
        return {file.path: file.oid for file in self.files}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelDescriptor:
    """Where a channel points.

    Attributes:
        ref: The channel.
        sequence: Number of the assignment in git.
        version: The version that it points at.
        release: Digest of that release's descriptor.
        artifact_digest: Digest of its artifact.
        issued: When this was signed.
        valid_until: When it is no longer to be believed.
    """

    ref: Channel
    sequence: int
    version: str
    release: Digest
    artifact_digest: Digest
    issued: datetime
    valid_until: datetime

    def to_bytes(self) -> bytes:
        """The payload."""
        return encode(
            {
                "schema": _CHANNEL,
                "variant": self.ref.variant,
                "channel": self.ref.channel,
                "sequence": self.sequence,
                "version": self.version,
                "release": str(self.release),
                "artifact_digest": str(self.artifact_digest),
                "issued": _format(self.issued),
                "valid_until": _format(self.valid_until),
            }
        )

    @classmethod
    def from_bytes(cls, payload: bytes, ref: Channel, *, where: str) -> ChannelDescriptor:
        """Read a payload that is said to describe a channel.

        Raises:
            InvalidError: It breaks the schema.
            DeniedError: It describes another channel.
        """
        table = _canonical(payload, where, MAX_CHANNEL_BYTES)
        table.only(
            *("schema", "variant", "channel", "sequence", "version"),
            *("release", "artifact_digest", "issued", "valid_until"),
        )
        table.constant("schema", _CHANNEL)
        _check_name(f"{table.text('variant')}#{table.text('channel')}", str(ref), where)
        return cls(
            ref=ref,
            sequence=table.count("sequence"),
            version=check_version(table.text("version")),
            release=table.digest("release"),
            artifact_digest=table.digest("artifact_digest"),
            issued=_moment(table, "issued"),
            valid_until=_moment(table, "valid_until"),
        )

    def check_valid(self, now: datetime, *, where: str) -> None:
        """Refuse a descriptor that has expired.

        Raises:
            DeniedError: It has.
        """
        if now > self.valid_until:
            raise DeniedError(
                f"{self.ref} was good until {_format(self.valid_until)}, and it is {_format(now)} now",
                where=where,
                mend="the server is out of date or withholds news: have it renewed by `varietal describe`; "
                "if it is not so late, set this machine's clock",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """What a host saw of a channel before: the highest sequence number, and the artifact that it stood for."""

    sequence: int
    artifact_digest: Digest


def check_newer(descriptor: ChannelDescriptor, seen: Iterable[Sighting], *, where: str) -> None:
    """Hold a descriptor against what was seen before.

    Raises:
        DeniedError: A higher sequence number was seen.
        ConflictError: The same number stood for another artifact.
    """
    for one in seen:
        if one.sequence > descriptor.sequence:
            raise DeniedError(
                f"{descriptor.ref} has sequence number {descriptor.sequence}, and {one.sequence} was seen here before",
                where=where,
                mend="the server gives an old state: ask who runs it; a rollback has a higher number of its own",
            )
        if one.sequence == descriptor.sequence and one.artifact_digest != descriptor.artifact_digest:
            raise ConflictError(
                f"sequence number {one.sequence} of {descriptor.ref} stood for {one.artifact_digest} before, "
                f"for {descriptor.artifact_digest} now",
                where=where,
                mend="two states were signed under one number: ask who holds the key",
            )


def _canonical(payload: bytes, where: str, max_bytes: int) -> Table:
    value = decode(payload, where=where, max_bytes=max_bytes)
    if encode(value) != payload:
        raise InvalidError("the payload is not in canonical JSON", where=where, mend=_MEND)
    return Table(value, where)


def _check_name(got: str, wanted: str, where: str) -> None:
    if got != wanted:
        raise DeniedError(
            f"this describes {got[:200]}, asked for was {wanted}",
            where=where,
            mend="do not use it: the server gives one thing for another; ask who runs it",
        )


def _format(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(table: Table, key: str) -> datetime:
    text = table.text(key)
    try:
        if _TIME.fullmatch(text):
            return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        pass
    raise InvalidError(f"{key}: {text[:60]!r} is no time", where=table.where, mend=_MEND)
