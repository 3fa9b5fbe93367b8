"""From a ref to a record that can be believed, and to the name of its bytes.

1. The ref gives a commit, by tag or by revision; a stage without one is taken from the work tree.
2. The record and the lock are read at that commit.
3. The record's bytes are those that the lock names, so what git shows is what DVC has.
4. The record is of the variant and stage that were asked for.
5. Of a release: the record and its artifact are those that the tag promises.

What is left to the caller: whether the tag itself is to be trusted, and every byte of the artifact (``fetch``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from registry.digest import digest_bytes
from registry.errors import DigestMismatchError, InvalidError, NotFoundError
from registry.lock import Lock
from registry.published import Promise, Published
from registry.record import Record, artifact_folder, artifact_record, git_record, lock_file
from registry.refs import Channel, Stage

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from registry.history import Repository
    from registry.published import Release
    from registry.refs import Version

__all__ = ["Found", "resolve"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a ref stands for.

    Attributes:
        ref: The ref.
        commit: The commit that it was read at; empty for the work tree.
        version: The release, where the ref is one or a channel; else empty.
        record: The record.
        record_bytes: Its bytes, as git and DVC have them.
        listing_oid: DVC's name of the listing of the artifact's folder, ``<md5>.dir``.
    """

    ref: Version | Channel | Stage
    commit: str
    version: str
    record: Record
    record_bytes: bytes
    listing_oid: str


def resolve(repository: Repository, ref: Version | Channel | Stage) -> Found:
    """Find the record that a ref stands for.

    Args:
        repository: Where tags, records and locks are.
        ref: A release, a channel or a stage; whoever has only a digest asks the index for its stage first.

    Raises:
        NotFoundError: There is no such release, revision, record or lock.
        ConflictError: A channel lies on another commit than its release.
        DigestMismatchError: The record is not the one that the lock or the tag names.
        InvalidError: The record, the lock or the tag breaks its rules.
    """
    if isinstance(ref, Stage):
        revision = ref.revision or ("HEAD" if repository.bare else "")
        return _read(repository, ref, ref, repository.resolve(revision) if revision else "")
    published = Published.read(repository.tags(f"{ref.variant}@*", f"{ref.variant}#*", messages=True))
    release = published.channel(ref) if isinstance(ref, Channel) else published.release(ref)
    promise = release.promise()
    found = _read(repository, ref, Stage(ref.variant, promise.stage), release.commit)
    _check_promise(found, promise, release)
    return replace(found, version=release.version)


def _read(repository: Repository, ref: Version | Channel | Stage, stage: Stage, commit: str) -> Found:
    place = stage.variant, stage.stage
    record_bytes = _file(repository, commit, git_record(*place))
    lock_path = lock_file(stage.variant)
    lock = Lock.parse(_file(repository, commit, lock_path), where=_where(commit, lock_path))
    locked_md5 = lock.output(str(artifact_record(*place))).md5
    got_md5 = hashlib.md5(record_bytes, usedforsecurity=False).hexdigest()
    where = _where(commit, git_record(*place))
    if got_md5 != locked_md5:
        raise DigestMismatchError(
            f"the record has md5 {got_md5}, the lock says {locked_md5}",
            where=where,
            mend="run `dvc repro`, which copies the records, and commit; if nothing is stale, the record was edited",
        )
    record = Record.from_bytes(record_bytes, where=where)
    if (record.variant, record.stage) != place:
        raise InvalidError(
            f"this is the record of {record.ref}", where=where, mend="run `dvc repro`, which copies the records"
        )
    folder = lock.output(str(artifact_folder(*place)))
    if not folder.is_folder:
        raise InvalidError(f"{folder.path} is not a folder", where=lock.where, mend="run `dvc repro` and commit")
    return Found(ref=ref, commit=commit, version="", record=record, record_bytes=record_bytes, listing_oid=folder.md5)


def _check_promise(found: Found, promise: Promise, release: Release) -> None:
    """The tag's message names the digest of the record, and with it of everything that the record names."""
    got = digest_bytes(found.record_bytes)
    if got != promise.record_digest or Promise.of(found.record) != promise:
        raise DigestMismatchError(
            f"the tag promises record {promise.record_digest} of artifact {promise.artifact_digest}, "
            f"its commit has record {got} of artifact {found.record.artifact.digest}",
            where=f"tag {release.ref} on commit {release.commit[:12]}",
            mend="do not use this release: its tag was made by hand or moved",
        )


def _file(repository: Repository, commit: str, path: PurePosixPath) -> bytes:
    if commit:
        return repository.read(commit, str(path))
    try:
        return (repository.root / path).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            "there is no such file in the work tree",
            where=str(path),
            mend="build the stage with `dvc repro`, or name a revision: NAME:STAGE@REVISION",
        ) from error


def _where(commit: str, path: PurePosixPath) -> str:
    return f"{path} at {commit[:12]}" if commit else str(path)
