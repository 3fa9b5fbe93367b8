"""Gives a folder the bytes of a recorded artifact: from the work tree, the local store, DVC's cache or its remote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.reuse import candidates_of, sources
from registry.artifact import LISTING, Artifact
from registry.errors import DigestMismatchError, NotFoundError
from registry.pull import materialise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from registry.digest import Digest
    from registry.index import Index
    from registry.store import Store

__all__ = ["obtain", "read_verified"]


def obtain(
    root: Path, digest: Digest, name: str, folder: Path, *, index: Index, store: Store, say: Callable[[str], None]
) -> Artifact:
    """Fill a folder with an artifact; every file is hashed on its way there, and every tensor when it is there.

    Args:
        root: Root of the repository.
        digest: Digest of the artifact.
        name: What it is called, for errors.
        folder: Folder to make.
        index: Records of the work tree and of git.
        store: Local content store.
        say: Tells the person at the terminal.

    Returns:
        What is in the folder, by its files.

    Raises:
        NotFoundError: Its bytes are nowhere.
        DigestMismatchError: Its listing says something else of the tensors than the files do.
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
    return read_verified(folder)


def read_verified(folder: Path) -> Artifact:
    """What is in a folder that has a listing, by its files: each file and each tensor is hashed.

    Raises:
        NotFoundError: A file is missing.
        DigestMismatchError: A file or a tensor is not as the listing says.
        InvalidError: A file is not listed, is a symlink, or has a broken header.
    """
    listing = Artifact.read(folder)
    found = Artifact.from_folder(folder, listing.type)
    if found == listing:
        return found
    listing.verify_folder(folder)
    wrong = sorted({one.name for one in set(found.tensors) ^ set(listing.tensors)})
    raise DigestMismatchError(
        f"{len(wrong)} tensors are not as {LISTING} says, such as {wrong[0]!r}",
        where=str(folder),
        mend="remove the folder and fetch or build the artifact again",
    )
