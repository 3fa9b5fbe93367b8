"""From a ref to a proven record: the one way by which a ref becomes an artifact, for people and for programs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from registry.errors import ConflictError, DigestMismatchError, Error, NotFoundError
from registry.mainline import off_main
from registry.record import git_record
from registry.refs import ByDigest, Channel, Ref, Stage, Version
from registry.signers import read_published
from registry.verify import Found, Place, prove

if TYPE_CHECKING:
    from registry.history import Repository
    from registry.index import Index
    from registry.published import Release

__all__ = ["Found", "resolve"]


def resolve(repository: Repository, ref: Ref) -> Found:
    """The record that a ref names, proven by the steps of :mod:`registry.verify`.

    Raises:
        NotFoundError: There is nothing of that name.
        ConflictError: More than one artifact has a digest that starts so, or tags contradict each other.
        InvalidError: A record, a lock or a tag breaks its schema.
        DigestMismatchError: Record, lock and tag do not belong together.
        MachineError: git is missing, or the index cannot be written.
    """
    match ref:
        case Version():
            release = read_published(repository, ref.variant).release(ref)
            return prove(repository, _release_place(repository, ref, release))
        case Channel():
            published = read_published(repository, ref.variant)
            found = prove(repository, _release_place(repository, ref, published.channel(ref)))
            return replace(found, warnings=(*published.refused(ref), *found.warnings))
        case Stage():
            return prove(repository, _stage_place(repository, ref))
        case ByDigest():
            return _by_digest(repository, ref)


def _release_place(repository: Repository, ref: Ref, release: Release) -> Place:
    return Place(
        ref=ref,
        variant=release.variant,
        stage=release.promise().stage,
        commit=release.commit,
        release=release,
        off_main=off_main(repository, release.commit),
    )


def _stage_place(repository: Repository, ref: Stage) -> Place:
    revision = ref.revision or ("HEAD" if repository.bare else "")
    commit = repository.resolve(revision) if revision else ""
    return Place(ref=ref, variant=ref.variant, stage=ref.stage, commit=commit, release=None)


def _by_digest(repository: Repository, ref: ByDigest) -> Found:
    """The first sighting that can be proven, the work tree before git."""
    from registry.index import Index  # noqa: PLC0415 - the other refs do without it

    with Index.open(repository) as index:
        places = _sighted(index, ref)
    problem: Error | None = None
    for place in places:
        try:
            return _check_asked(prove(repository, place), ref, place)
        except Error as error:
            problem = problem or error
    raise problem or NotFoundError(
        f"there is no artifact {ref}", where=str(repository.root), mend="try `varietal find`, or fetch first"
    )


def _check_asked(found: Found, ref: ByDigest, place: Place) -> Found:
    """The index saw the digest in DVC's copy of a record, or long ago; what git keeps there may be another by now."""
    if found.record.artifact.digest.hex.startswith(ref.prefix):
        return found
    raise DigestMismatchError(
        f"the record of {found.record.ref} is no longer that of {ref}",
        where=place.where(git_record(place.variant, place.stage)),
        mend="run `varietal build`, which puts back the record that was built, or `dvc checkout`",
    )


def _sighted(index: Index, ref: ByDigest) -> list[Place]:
    found = index.artifacts(ref.prefix)
    if len(found) > 1:
        raise ConflictError(
            f"{len(found)} artifacts start with {ref}",
            where=", ".join(f"{digest}" for digest in found[:5]),
            mend="write more digits",
        )
    return [
        Place(
            ref=ref,
            variant=sighting.record.variant,
            stage=sighting.record.stage,
            commit=sighting.commit,
            release=None,
        )
        for digest in found
        for sighting in index.by_artifact(digest)
    ]
