"""The proof that a ref names these bytes, as numbered steps.

Of a place in git (a release, or a stage at a commit or in the work tree):

1. A channel leads to the release that its last assignment names, on one and the same commit; a release to a commit,
   and it is said whether that is on the main branch: if not, nothing is promoted or described by it.
   Where the channel is protected, an assignment counts only if a promoter signed it (:mod:`registry.signers`).
2. That commit, or the work tree, has the record of the stage: the copy that git keeps.
3. The record is canonical JSON of its schema; its action digest and artifact digest follow from its content.
4. It names this variant and this stage.
5. DVC's lock at the same commit names the very bytes of the record, and the listing of the artifact's folder.
6. The tag's message promises this record, this artifact, these weights.

Of a folder that is said to hold the artifact:

7. Its ``artifact.json`` has the digest that the record says, and the same files.
8. Every file has the size and the sha256 of the record; no file is missing, none is there that is not listed.
9. The header of every safetensors file says the tensors of ``artifact.json``, and the bytes of each tensor have its
   sha256; the weights digest follows.

What the caller must still do: decide whether to trust whoever made the tag (``git verify-tag``); step 6 is as good as
that. md5, by which DVC names things, proves nothing here beyond that the lock and the record belong together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.artifact import LISTING, Artifact
from registry.counted import counted
from registry.digest import digest_bytes
from registry.errors import DigestMismatchError, InvalidError, NotFoundError
from registry.lock import Lock, content_md5
from registry.plain_file import read_plain
from registry.record import Record, artifact_folder, artifact_record, git_record, lock_file
from registry.tag_message import Promise

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath

    from registry.digest import Digest
    from registry.history import Repository
    from registry.published import Release
    from registry.refs import Ref

__all__ = ["Found", "Place", "prove", "prove_folder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a ref led to.

    Attributes:
        ref: The ref.
        variant: The variant.
        stage: The stage.
        commit: The commit; empty for the work tree.
        release: The release, where the ref is one or led to one.
        off_main: Why a release cannot be said to be on the main branch; empty where it is on it.
    """

    ref: Ref
    variant: str
    stage: str
    commit: str
    release: Release | None
    off_main: str = ""

    def where(self, path: PurePosixPath) -> str:
        """A file at this place, for messages."""
        return f"{path} at {self.commit[:12]}" if self.commit else str(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a ref stands for, proven.

    Attributes:
        ref: The ref.
        commit: The commit that it was read at; empty for the work tree.
        version: The release, where the ref is one or led to one; else empty.
        record: The record.
        record_bytes: Its bytes, as git and DVC have them.
        listing_oid: DVC's name of the listing of the artifact's folder, ``<md5>.dir``.
        steps: What was shown, one line a step.
        warnings: What was stepped over on the way to the release, and that the release is not on the main branch.
        off_main: Why a release cannot be said to be on the main branch; empty where it is on it.
    """

    ref: Ref
    commit: str
    version: str
    record: Record
    record_bytes: bytes
    listing_oid: str
    steps: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    off_main: str = ""


def prove(repository: Repository, place: Place) -> Found:
    """Steps 2 to 6; the caller found the place by step 1.

    Raises:
        NotFoundError: There is no record, or no lock that names it.
        InvalidError: The record or the lock breaks its schema, or the record is that of another stage.
        DigestMismatchError: The record is not the one in the lock, or not the one that the tag promises.
    """
    path = git_record(place.variant, place.stage)
    # 2. The record's copy in git.
    data = _read(repository, place, path)
    # 3. Canonical JSON, at one with itself.
    record = _read_record(data, place.where(path))
    # 4. Of this stage.
    if (record.variant, record.stage) != (place.variant, place.stage):
        raise InvalidError(
            f"this is the record of {record.ref}",
            where=place.where(path),
            mend="run `varietal build`, which puts back the record that was built, and commit",
        )
    # 5. The lock beside it.
    listing_oid = _check_lock(repository, place, data)
    # 6. The promise of the tag.
    if place.release is not None:
        _check_promise(place.release, record, digest_bytes(data))
    steps = (
        f"1. {place.ref} is {_describe(place)}",
        f"2. {place.where(path)} is the record, {digest_bytes(data)}",
        f"3. by its content it is of action {record.action.digest} and artifact {record.artifact.digest}",
        f"4. it is the record of {record.ref}",
        f"5. {place.where(lock_file(place.variant))} names these very bytes, and the artifact's folder",
        *([f"6. the tag {place.release.ref} promises this record, artifact and weights"] if place.release else []),
    )
    return Found(
        ref=place.ref,
        commit=place.commit,
        version=place.release.version if place.release is not None else "",
        record=record,
        record_bytes=data,
        listing_oid=listing_oid,
        steps=steps,
        warnings=(f"{place.release.ref}: {place.off_main}",) if place.release is not None and place.off_main else (),
        off_main=place.off_main,
    )


def prove_folder(record: Record, folder: Path) -> tuple[str, ...]:
    """Steps 7 to 9: the folder holds the artifact of a proven record, byte for byte.

    Returns:
        What was shown, one line a step.

    Raises:
        NotFoundError: A file is missing.
        DigestMismatchError: A file or a tensor has other bytes.
        InvalidError: A file is not part of the artifact, is a symlink, or has a broken header.
    """
    # 7. The listing.
    listing = Artifact.read(folder)
    got, expected = digest_bytes(read_plain(folder / LISTING)), record.artifact.listing
    if got != expected or listing.files != record.artifact.files:
        raise _mismatch(f"{LISTING} has {got}, the record says {expected}", str(folder))
    # 8. The files.
    listing.verify_folder(folder)
    # 9. The tensors, from the files themselves.
    found = Artifact.from_folder(folder, record.artifact.type)
    if found != listing or found.weights_digest != record.artifact.weights_digest:
        wrong = sorted({entry.name for entry in set(found.tensors) ^ set(listing.tensors)})
        raise _mismatch(
            f"tensors are not as {LISTING} says: {', '.join(wrong[:5]) or 'their weights digest'}", str(folder)
        )
    files, tensors = counted(len(listing.files), "file"), counted(len(listing.tensors), "tensor")
    return (
        f"7. {LISTING} is the one of the record, {expected}",
        f"8. {files}, {listing.size_bytes} bytes: every sha256 holds, and there is nothing else",
        f"9. {tensors}: headers and bytes hold, weights {record.artifact.weights_digest}",
    )


def _describe(place: Place) -> str:
    if place.release is not None:
        return f"{place.release.ref}, commit {place.commit}; {place.off_main or 'it is on the main branch'}"
    return f"in commit {place.commit}" if place.commit else "in the work tree"


def _read(repository: Repository, place: Place, path: PurePosixPath) -> bytes:
    if place.commit:
        return repository.read(place.commit, str(path))
    try:
        return read_plain(repository.root / path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            "there is no such file in the work tree",
            where=str(path),
            mend="build the stage with `dvc repro`, or name a revision: NAME:STAGE@REVISION",
        ) from error


def _read_record(data: bytes, where: str) -> Record:
    record = Record.from_bytes(data, where=where)
    if record.to_bytes() != data:
        raise InvalidError(
            "the record is not in canonical JSON",
            where=where,
            mend="it was edited; restore it from git or build the stage again",
        )
    return record


def _check_lock(repository: Repository, place: Place, data: bytes) -> str:
    """Name of the artifact's listing, by a lock that names this very record."""
    path = lock_file(place.variant)
    lock = Lock.parse(_read(repository, place, path), where=place.where(path))
    locked, got = lock.output(str(artifact_record(place.variant, place.stage))).md5, content_md5(data)
    if got != locked:
        raise DigestMismatchError(
            f"the record has md5 {got}, the lock says {locked}",
            where=place.where(git_record(place.variant, place.stage)),
            mend="run `varietal build`, which puts back the record that was built, and commit",
        )
    folder = lock.output(str(artifact_folder(place.variant, place.stage)))
    if not folder.is_folder:
        raise InvalidError(f"{folder.path} is not a folder", where=lock.where, mend="run `dvc repro` and commit")
    return folder.md5


def _check_promise(release: Release, record: Record, got: Digest) -> None:
    """The tag's message names the digest of the record, and with it everything that the record names."""
    promise, artifact = release.promise(), record.artifact.digest
    if got != promise.record_digest or Promise.of(record) != promise:
        same = artifact == promise.artifact_digest
        promised, found = (promise.record_digest, got) if same else (promise.artifact_digest, artifact)
        raise DigestMismatchError(
            f"the tag promises {promised}, its commit has {found}",
            where=f"tag {release.ref} on commit {release.commit[:12]}",
            mend="do not use this release: its tag was made by hand or moved",
        )


def _mismatch(what: str, where: str) -> DigestMismatchError:
    return DigestMismatchError(
        what, where=where, mend="do not use it; fetch or build it again, and find out who changed it"
    )
