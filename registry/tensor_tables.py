"""Tensor tables for the index: each artifact's ``artifact.json``, from wherever this machine has it.

Asked in this order: the folder in the work tree, the local store, DVC's cache. What is found is believed only if its
sha256 is the one of the record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.artifact import LISTING
from registry.canonical import MAX_BYTES
from registry.digest import digest_bytes
from registry.errors import DigestMismatchError, InvalidError, NotFoundError
from registry.listing import most_bytes, read_listing
from registry.lock import Lock
from registry.record import artifact_folder, lock_file
from registry.remote import DvcCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.history import Repository
    from registry.index import Index, Sighting
    from registry.record import Record
    from registry.store import Store

__all__ = ["take_tensor_tables"]

_NOT_HERE = (NotFoundError, InvalidError, DigestMismatchError)


def take_tensor_tables(index: Index, repository: Repository, store: Store) -> int:
    """Give the index every tensor table that it lacks and this machine has.

    Returns:
        How many it was given.

    Raises:
        MachineError: The disk is full, or another process holds the index for more than a minute.
    """
    cache = None if repository.bare else DvcCache(repository.root)
    taken: set[str] = set()
    for sighting in index.unlisted():
        record = sighting.record
        digest = str(record.artifact.digest)
        if digest in taken:
            continue
        for data in _found(sighting, repository, store, cache):
            if digest_bytes(data) == record.artifact.listing:
                index.add_listing(record, data)
                taken.add(digest)
                break
    return len(taken)


def _found(sighting: Sighting, repository: Repository, store: Store, cache: DvcCache | None) -> Iterator[bytes]:
    """What may be the listing, from one place after another."""
    record = sighting.record
    folder = repository.root / artifact_folder(record.variant, record.stage)
    for path in (folder / LISTING, store.path(record.artifact.listing)):
        if path.is_file() and path.stat().st_size <= MAX_BYTES:
            yield path.read_bytes()
    if cache is not None:
        yield from _from_cache(sighting, record, repository, cache)


def _from_cache(sighting: Sighting, record: Record, repository: Repository, cache: DvcCache) -> Iterator[bytes]:
    path = str(lock_file(record.variant))
    try:
        text = repository.read(sighting.commit, path) if sighting.commit else (repository.root / path).read_bytes()
        oid = Lock.parse(text, where=path).output(str(artifact_folder(record.variant, record.stage))).md5
        with cache.open(oid, 0) as stream:
            entries = read_listing(stream.read(most_bytes(record) + 1), oid, record, origin=cache.name)
        with cache.open(entries[LISTING], 0) as stream:
            yield stream.read(MAX_BYTES)
    except (*_NOT_HERE, FileNotFoundError):
        return  # the lock names other content by now, or the cache lacks it
