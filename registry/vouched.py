"""Which records are believed: those of the work tree, and of the checked-out branch's own line of commits.

The index knows every ref that git has, branches that were fetched for review and never merged among them, and it is
only a cache. So it says where to look, and what is there is read again (decision 0007). The line goes from ``HEAD``
from first parent to first parent: what a merged branch ended with is in its merge, what stood in between on that branch
nobody has judged.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from registry.errors import Error
from registry.git_output import MARK, read_raw_log
from registry.history import Repository
from registry.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from registry.digest import Digest
    from registry.index import Sighting
    from registry.lineage import Sightings

__all__ = ["Vouched", "vouched"]


def vouched(repository: Repository, sightings: Iterable[Sighting]) -> Iterator[Sighting]:
    """Those that the checked-out branch vouches for, each with the record as it lies there.

    Args:
        repository: The repository.
        sightings: Where the index saw records.

    Yields:
        The sighting; of what came by a merged branch, with the commit of the line that brought it.
    """
    head: str | None = None
    for sighting in sightings:
        commit = sighting.commit
        try:
            if commit:
                head = repository.head() if head is None else head
                commit = _on_line(repository, head, sighting)
                if not commit:
                    continue
            data = repository.read(commit, sighting.path) if commit else (repository.root / sighting.path).read_bytes()
            record = Record.from_bytes(data, where=sighting.path)
        except (Error, OSError):
            continue
        yield replace(sighting, commit=commit, record=record)


class Vouched:
    """An index of which only that is believed: for walks that decide what a stage may do."""

    def __init__(self, repository: Repository, index: Sightings) -> None:
        """Ask ``index`` where to look, and ``repository`` what is there."""
        self._repository = repository
        self._index = index

    def by_artifact(self, digest: Digest) -> tuple[Sighting, ...]:
        """Every sighting of a record of this artifact that counts; the work tree first."""
        found = vouched(self._repository, self._index.by_artifact(digest))
        return tuple(one for one in found if one.record.artifact.digest == digest)


def _on_line(repository: Repository, head: str, sighting: Sighting) -> str:
    """Commit of the line that has what was seen; empty where it never stood there."""
    place = (repository.root, repository.bare, head)
    if sighting.commit in _line(*place):
        return sighting.commit
    states = _states(*place, sighting.path)
    return states.get(_blob(repository, f"{sighting.commit}:{sighting.path}"), "") if states else ""


@lru_cache(maxsize=4)
def _line(root: Path, bare: bool, head: str) -> frozenset[str]:  # noqa: FBT001 - a key of the cache
    """The commits from first parent to first parent; a commit's past never changes, so it is asked for once."""
    out = Repository(root, bare=bare).ask("rev-list", "--first-parent", head).stdout
    return frozenset(out.decode("ascii").split())


@lru_cache(maxsize=4096)
def _states(root: Path, bare: bool, head: str, path: str) -> Mapping[str, str]:  # noqa: FBT001 - as above
    """Blobs that a file has been on the line, each with the newest commit of the line that brought it."""
    out = Repository(root, bare=bare).ask(
        *("log", "--first-parent", "-m", "--raw", "--no-abbrev", "--no-renames", "-z", f"--format={MARK}%H"),
        *(head, "--", f":(top,literal){path}"),
    )
    found: dict[str, str] = {}
    for change in read_raw_log(out.stdout):
        found.setdefault(change.blob, change.commit)
    return found


def _blob(repository: Repository, name: str) -> str:
    return repository.ask("rev-parse", "--verify", "--quiet", "--end-of-options", name).stdout.decode("ascii").strip()
