"""The proof that a ref names these bytes, as numbered steps.

Of a place in git (a release, or a stage at a commit or in the work tree):

1. A channel leads to the release that its last assignment names, on one and the same commit; a release leads to a commit.
2. That commit has the record of the stage, as a copy in git. (In the work tree: the record beside the artifact, else
   the copy.)
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
from registry.digest import Digest, digest_bytes
from registry.errors import DigestMismatchError, InvalidError, NotFoundError
from registry.lock import Lock
from registry.record import Record, artifact_folder, artifact_record, git_record, lock_file

if TYPE_CHECKING:
    from pathlib import Path

    from registry.history import Repository
    from registry.published import Release

__all__ = ["Place", "Proven", "prove", "prove_folder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a ref led to.

    Attributes:
        ref: The ref as it was given.
        variant: The variant.
        stage: The stage.
        commit: The commit; empty for the work tree.
        release: The release, where the ref is one or led to one.
    """

    ref: str
    variant: str
    stage: str
    commit: str
    release: Release | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Proven:
    """A record that was proven to be what a ref names.

    Attributes:
        place: Where the ref led to.
        record: The record.
        record_digest: Digest of its bytes.
        listing_oid: DVC's name of the listing of the artifact's folder: 32 hexadecimal digits and ``.dir``.
        steps: What was shown, one line a step.
    """

    place: Place
    record: Record
    record_digest: Digest
    listing_oid: str
    steps: tuple[str, ...]


def prove(repository: Repository, place: Place) -> Proven:
    """Steps 2 to 6; the caller found the place by step 1.

    Raises:
        NotFoundError: There is no record, or no lock that names it.
        InvalidError: The record or the lock breaks its schema, or is that of another stage.
        DigestMismatchError: The record is not the one in the lock, or not the one that the tag promises.
    """
    steps = [_step_1(place)]
    # 2. The record.
    path, data = _read_record(repository, place)
    where = f"{path} at {place.commit[:12]}" if place.commit else path
    steps.append(f"2. {where}: the record, {digest_bytes(data)}")
    # 3. Strict, and at one with itself.
    record = Record.from_bytes(data, where=where)
    if record.to_bytes() != data:
        raise InvalidError(
            "the record is not in canonical JSON",
            where=where,
            mend="it was edited; restore it from git or build the stage again",
        )
    steps.append(f"3. its content gives action {record.action.digest} and artifact {record.artifact.digest}")
    # 4. Of this stage.
    if (record.variant, record.stage) != (place.variant, place.stage):
        raise InvalidError(
            f"the record is that of {record.ref}",
            where=where,
            mend="it was copied by hand; remove it and run `dvc repro`",
        )
    steps.append(f"4. it is the record of {record.ref}")
    # 5. The lock.
    listing_oid = _check_lock(repository, place, data)
    steps.append(f"5. {lock_file(place.variant)} names these very bytes, and the folder {listing_oid}")
    # 6. The tag.
    digest = digest_bytes(data)
    if place.release is not None:
        _check_promise(place.release, record, digest)
        steps.append(f"6. the tag {place.release.ref} promises this record, artifact and weights")
    return Proven(place=place, record=record, record_digest=digest, listing_oid=listing_oid, steps=tuple(steps))


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
    got, expected = digest_bytes((folder / LISTING).read_bytes()), record.artifact.listing
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
    return (
        f"7. {LISTING} is the one of the record, {expected}",
        f"8. {len(listing.files)} files, {listing.size_bytes} bytes: every sha256 holds, and there is nothing else",
        f"9. {len(listing.tensors)} tensors: headers and bytes hold, weights {record.artifact.weights_digest}",
    )


def _step_1(place: Place) -> str:
    if place.release is not None:
        return f"1. {place.ref} is {place.release.ref}, commit {place.commit}"
    return f"1. {place.ref} is in {'commit ' + place.commit if place.commit else 'the work tree'}"


def _read_record(repository: Repository, place: Place) -> tuple[str, bytes]:
    copy = str(git_record(place.variant, place.stage))
    if place.commit:
        return copy, repository.read(place.commit, copy)
    for path in (str(artifact_record(place.variant, place.stage)), copy):
        if (repository.root / path).is_file():
            return path, (repository.root / path).read_bytes()
    raise NotFoundError(
        f"there is no record of {place.variant}:{place.stage}",
        where=copy,
        mend="build it with `dvc repro`, or look at `varietal list` for what there is",
    )


def _check_lock(repository: Repository, place: Place, data: bytes) -> str:
    """Name of the artifact's listing, by a lock that names this very record."""
    path = str(lock_file(place.variant))
    where = f"{path} at {place.commit[:12]}" if place.commit else path
    try:
        text = repository.read(place.commit, path) if place.commit else (repository.root / path).read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError("there is no lock", where=where, mend="build with `dvc repro`") from error
    lock = Lock.parse(text, where=where)
    named = lock.output(str(artifact_record(place.variant, place.stage)))
    if not named.is_of(data):
        raise _mismatch(f"the record of {place.variant}:{place.stage} is not the one in the lock", where)
    folder = lock.output(str(artifact_folder(place.variant, place.stage)))
    if not folder.is_folder:
        raise InvalidError(f"{folder.path} is a file in the lock", where=where, mend="run `dvc repro`")
    return folder.md5


def _check_promise(release: Release, record: Record, record_digest: Digest) -> None:
    promise = release.promise()
    promised = (promise.stage, promise.type, promise.record_digest, promise.artifact_digest, promise.weights_digest)
    summary = record.artifact
    if promised != (record.stage, summary.type, record_digest, summary.digest, summary.weights_digest):
        raise _mismatch(
            f"the tag promises {promise.artifact_digest}, its commit has {summary.digest}", f"tag {release.ref}"
        )


def _mismatch(what: str, where: str) -> DigestMismatchError:
    return DigestMismatchError(
        what, where=where, mend="do not use it; fetch or build it again, and find out who changed it"
    )
