"""Gives a folder the bytes of a recorded artifact: from the work tree, the local store, DVC's cache or its remote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.reuse import candidates_of, sources
from registry.artifact import Artifact
from registry.errors import NotFoundError
from registry.pull import materialise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from registry.digest import Digest
    from registry.index import Index
    from registry.store import Store

__all__ = ["obtain"]


def obtain(
    root: Path, digest: Digest, name: str, folder: Path, *, index: Index, store: Store, say: Callable[[str], None]
) -> Artifact:
    """Fill a folder with an artifact; every file is hashed on its way there.

    Args:
        root: Root of the repository.
        digest: Digest of the artifact.
        name: What it is called, for errors.
        folder: Folder to make.
        index: Records of the work tree and of git.
        store: Local content store.
        say: Tells the person at the terminal.

    Raises:
        NotFoundError: Its bytes are nowhere.
        MachineError: The disk is full, or a program is missing.
    """
    candidates = [one for one in candidates_of(root, index.by_artifact(digest)) if one.record.artifact.digest == digest]
    found = materialise(candidates, folder, sources=sources(root), store=store, say=say) if candidates else None
    if found is None:
        raise NotFoundError(
            f"the bytes of {name}, {digest}, are neither here nor on the remote",
            where=str(root),
            mend="fetch them with `dvc pull`, or push them from where they were built",
        )
    return Artifact.read(folder)
