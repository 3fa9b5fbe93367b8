"""Which records are believed: those of the work tree, and of commits that the checked-out one came from.

The index knows every ref that git has, branches that were fetched for review and never merged among them, and it is
only a cache. So it says where to look, and what is there is read again (decision 0007).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from registry.errors import Error
from registry.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from registry.digest import Digest
    from registry.history import Repository
    from registry.index import Sighting
    from registry.lineage import Sightings

__all__ = ["Vouched", "vouched"]


def vouched(
    repository: Repository, sightings: Iterable[Sighting], known: dict[str, bool] | None = None
) -> Iterator[Sighting]:
    """Those that the checked-out history vouches for, each with the record as it lies there.

    Args:
        repository: The repository.
        sightings: Where the index saw records.
        known: Commit -> whether ``HEAD`` came from it; kept up to date, so that no commit is asked for twice.
    """
    known = {} if known is None else known
    for sighting in sightings:
        commit = sighting.commit
        if commit and commit not in known:
            known[commit] = _is_behind(repository, commit)
        if commit and not known[commit]:
            continue
        try:
            data = repository.read(commit, sighting.path) if commit else (repository.root / sighting.path).read_bytes()
            record = Record.from_bytes(data, where=sighting.path)
        except (Error, OSError):
            continue
        yield replace(sighting, record=record)


class Vouched:
    """An index of which only that is believed: for walks that decide what a stage may do."""

    def __init__(self, repository: Repository, index: Sightings) -> None:
        """Ask ``index`` where to look, and ``repository`` what is there."""
        self._repository = repository
        self._index = index
        self._known: dict[str, bool] = {}

    def by_artifact(self, digest: Digest) -> tuple[Sighting, ...]:
        """Every sighting of a record of this artifact that counts; the work tree first."""
        found = vouched(self._repository, self._index.by_artifact(digest), self._known)
        return tuple(one for one in found if one.record.artifact.digest == digest)


def _is_behind(repository: Repository, commit: str) -> bool:
    """Whether the checked-out commit is this one or came after it; where there is none, nothing did."""
    try:
        return repository.is_ancestor(commit, "HEAD")
    except Error:
        return False
