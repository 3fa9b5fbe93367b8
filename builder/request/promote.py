"""On merge: what main's locks name goes from the quarantine remote to the default one, each byte proven on the way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.request.carry import Carrier
from builder.request.goods import goods_of
from builder.request.machine import QUARANTINE, remote_names
from builder.request.names import MODELS, home_of, part_of
from builder.request.places import Remote
from builder.request.plumbing import git
from builder.request.retire import retire_builds
from registry.errors import DigestMismatchError, InvalidError, NotFoundError, RefusedError
from registry.record import BASES

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.request.goods import Goods
    from registry.canonical import JSON
    from registry.errors import Error
    from registry.history import Repository
    from registry.store import Store

__all__ = ["Promoted", "promote_bytes"]

_MOST = 5  # failures that are spelt out


@dataclass(frozen=True, kw_only=True, slots=True)
class Promoted:
    """What was promoted.

    Attributes:
        commit: Commit of main whose locks say what.
        stages: Refs of the artifacts that the default remote lacked.
        moved_bytes: Bytes that went there.
        retired: Branches of the origin that kept what was built for requests which main has now; they are gone.
    """

    commit: str
    stages: tuple[str, ...]
    moved_bytes: int
    retired: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """The shape of ``varietal publish --promote --json``."""
        return {
            "commit": self.commit,
            "stages": [*self.stages],
            "moved_bytes": self.moved_bytes,
            "retired": [*self.retired],
        }


def promote_bytes(repository: Repository, remote: str, *, store: Store, say: Callable[[str], None]) -> Promoted:
    """Promote what the default remote lacks; what was broken off goes on where it stopped.

    Args:
        repository: The repository, with a commit of main checked out.
        remote: DVC remote that the bytes are on; empty for the one named ``quarantine``.
        store: Local content store, in which the bytes are proven.
        say: Tells the person at the terminal.

    Raises:
        RefusedError: The commit is not on main, or a record is not what was built.
        NotFoundError: The bytes are nowhere.
        DigestMismatchError: They are not what the record says; nothing of that artifact is listed.
        DeniedError: A remote refuses.
        TransportError: A remote does not answer.
    """
    root, head = repository.root, repository.head()
    if not repository.is_ancestor(head, repository.main_branch()):
        raise RefusedError(
            "the commit is not on the main branch", where=f"commit {head}", mend="merge it; then promote from main"
        )
    if remote and remote not in remote_names(root):
        raise NotFoundError(
            f"there is no remote {remote!r}", where=str(root), mend="`dvc remote list` shows those that are there"
        )
    if not remote and QUARANTINE not in remote_names(root):
        say(f"there is no remote named {QUARANTINE}: what is published is on the default one already")
        return Promoted(commit=head, stages=(), moved_bytes=0, retired=retire_builds(repository, say))
    files = _generated(repository, head)
    pointers = _files(repository, head, [f"{path}.dvc" for path in _data_paths(repository, head)])
    everything = files | pointers
    homes = sorted({home_of(path) for path in files if path.endswith("/dvc.lock")})
    failures: list[Error] = []
    goods: list[Goods] = []
    for home in homes:
        try:
            goods += goods_of(home, everything.get)
        except (RefusedError, InvalidError) as error:
            failures.append(error)
    carrier = Carrier(Remote(root, remote or QUARANTINE), Remote(root), store, say)
    missing = carrier.lacking(goods)
    for one in missing:
        try:
            carrier.carry(one)
        except (NotFoundError, DigestMismatchError, InvalidError) as error:  # the others go on
            failures.append(error)
    if failures:
        raise type(failures[0])(
            "; ".join(f"{one.what} ({one.where})" for one in failures[:_MOST]),
            where=f"{len(failures)} of what main's locks name",
            mend="send them again where they were built: `varietal publish --request COMMIT --prove` replaces what is "
            "wrong in quarantine; what is gone has to be built again. Then promote again: all others are promoted",
        )
    return Promoted(
        commit=head,
        stages=tuple(one.record.ref for one in missing),
        moved_bytes=carrier.moved_bytes,
        retired=retire_builds(repository, say),
    )


def _generated(repository: Repository, commit: str) -> dict[str, bytes]:
    paths = [path for path in _paths(repository, commit, MODELS, BASES) if part_of(path) == "generated"]
    return _files(repository, commit, paths)


def _data_paths(repository: Repository, commit: str) -> list[str]:
    """Data files that DVC keeps, wherever they lie."""
    return [path.removesuffix(".dvc") for path in _paths(repository, commit) if path.endswith(".dvc")]


def _paths(repository: Repository, commit: str, *folders: str) -> list[str]:
    out = git(repository.root, "ls-tree", "-r", "-z", "--name-only", commit, "--", *folders)
    return [os.fsdecode(path) for path in out.split(b"\0") if path]


def _files(repository: Repository, commit: str, paths: list[str]) -> dict[str, bytes]:
    blobs = repository.read_blobs(f"{commit}:{path}" for path in paths)
    return {path: data for path, data in zip(paths, blobs, strict=True) if data is not None}
