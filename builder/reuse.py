"""Finds an earlier artifact of the same action, and links or fetches its bytes.

An earlier artifact may stand in the work tree under another variant's name, or in git's history with its bytes in DVC's
cache or on the remote. So a copied or renamed variant, and a manifest that goes back to an older state, train nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.manifest import PinnedRef
from registry.errors import DigestMismatchError, Error, NotFoundError
from registry.history import Repository
from registry.lock import Lock
from registry.pull import Candidate, materialise
from registry.record import artifact_folder, lock_file
from registry.refs import Version
from registry.remote import DvcCache, DvcRemote
from registry.resolve import resolve
from registry.vouched import vouched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from builder.graph import Node
    from registry.action import Action
    from registry.index import Index, Sighting
    from registry.record import Record
    from registry.remote import Source
    from registry.store import Store

__all__ = ["candidates_of", "find_reusable", "sources"]


def find_reusable(
    root: Path, node: Node, action: Action, target: Path, *, index: Index, store: Store, say: Callable[[str], None]
) -> Record | None:
    """Fill ``target`` with an artifact of this action, if its bytes can be had anywhere.

    Args:
        root: Root of the repository.
        node: The stage; a pinned release is looked up by its tag.
        action: What the stage does.
        target: Empty folder to fill.
        index: Records of the work tree and of git.
        store: Local content store.
        say: Tells the person at the terminal.

    Returns:
        The record that was found; ``None`` where the stage has to be computed.

    Raises:
        NotFoundError: A pinned release, or its bytes, are nowhere.
        DigestMismatchError: A pinned release has another digest than the manifest says.
    """
    if isinstance(node.settings, PinnedRef):
        candidates = [_pinned(root, node.settings)]
    else:
        sightings = index.by_action(action.digest)
        candidates = [one for one in candidates_of(root, sightings) if one.record.action.digest == action.digest]
    found = materialise(candidates, target, sources=sources(root), store=store, say=say) if candidates else None
    if found is not None:
        say(f"{node.address}: {found.ref} is this very artifact; nothing is computed")
    elif isinstance(node.settings, PinnedRef):
        raise NotFoundError(
            f"the bytes of {node.settings.release} are neither in the cache nor on the remote",
            where=str(node.address),
            mend="push them from where they were built: `dvc push`",
        )
    return found


def _pinned(root: Path, pin: PinnedRef) -> Candidate:
    found = resolve(Repository(root), Version(pin.variant, pin.version))
    record = found.record
    if record.artifact.digest != pin.digest:
        raise DigestMismatchError(
            f"{pin.release} is {record.artifact.digest}, the manifest says {pin.digest}",
            where=f"tag {pin.release}",
            mend="the tag was moved or the digest mistyped: compare with `varietal show` where it was released",
        )
    return Candidate(
        record=record, folder=root / artifact_folder(record.variant, record.stage), listing_oid=found.listing_oid
    )


def candidates_of(root: Path, sightings: Sequence[Sighting]) -> Iterator[Candidate]:
    """Records of the work tree, and of commits that it came from, read again where they lie.

    A branch that was fetched and never merged may claim anything, and the index is only a cache: neither is believed.

    Args:
        root: Root of the repository.
        sightings: Where the index saw them.
    """
    repository = Repository(root)
    for sighting in vouched(repository, sightings):
        record = sighting.record
        folder = artifact_folder(record.variant, record.stage)
        oid = _listing_oid(repository, sighting.commit, record)
        yield Candidate(record=record, folder=root / folder, listing_oid=oid)


def _listing_oid(repository: Repository, commit: str, record: Record) -> str:
    """Object id of the artifact's listing, by the lock that stood beside the record; empty where there is none."""
    path = str(lock_file(record.variant))
    try:
        lock = Lock.parse(_read(repository, commit, path), where=path)
        return lock.output(str(artifact_folder(record.variant, record.stage))).md5
    except (Error, OSError):
        return ""


def _read(repository: Repository, commit: str, path: str) -> bytes:
    return repository.read(commit, path) if commit else (repository.root / path).read_bytes()


def sources(root: Path) -> tuple[Source, ...]:
    """Where the bytes of an artifact may be had beside the work tree: DVC's cache, then its remote."""
    return DvcCache(root), DvcRemote(root)
