"""A variant's folder as git has it: what stands in the way of moving or removing it, and doing so."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from builder.load import load
from builder.shapes import nearest
from builder.start.mentions import folder_of
from registry.errors import ConflictError, MachineError, NotFoundError, RefusedError
from registry.history import last_line, run_git
from registry.record import git_record, lock_file, manifest_file

if TYPE_CHECKING:
    from pathlib import Path

    from builder.load import Workspace
    from registry.history import Repository

__all__ = ["check_committed", "find_variant", "move_folder", "remove_folder"]


def find_variant(root: Path, variant: str) -> Workspace:
    """What the repository declares, with this variant in it.

    Raises:
        NotFoundError: There is no such variant.
        InvalidError: A manifest is at fault.
    """
    workspace = load(root)
    if variant not in workspace.manifests:
        raise NotFoundError(
            f"there is no variant {variant!r}",
            where=str(manifest_file(variant)),
            mend=nearest(variant, workspace.manifests, "variants"),
        )
    return workspace


def check_committed(repository: Repository, variant: str) -> None:
    """Refuse where the variant's folder has something that git's history does not.

    Raises:
        RefusedError: It has; the history would lose it, and a renamed variant could not find what was built.
        NotFoundError: There is no commit yet.
    """
    repository.head()
    folder = folder_of(variant)
    if changed := [path for path in repository.changes() if path.startswith(folder)]:
        raise RefusedError(
            f"not committed: {', '.join(changed[:5])}{' and more' if len(changed) > 5 else ''}",  # noqa: PLR2004 - a few
            where=folder,
            mend="commit it first, so that its history is kept; what was never committed may be deleted by hand",
        )


def move_folder(repository: Repository, old: str, new: str) -> None:
    """Move a variant's folder as ``git mv`` does, with all that git ignores in it; what was built is no longer its own.

    Raises:
        ConflictError: There is something of the new name.
        MachineError: git or the disk refuses.
    """
    source, target = (repository.root / folder_of(name) for name in (old, new))
    if target.exists() or target.is_symlink():
        raise ConflictError(f"{folder_of(new)} exists", where=folder_of(new), mend="take another name, or remove it")
    _git(repository, "mv", "--", folder_of(old).rstrip("/"), folder_of(new).rstrip("/"))
    if source.is_dir():  # git leaves what it ignores where a file system cannot rename the folder as a whole
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(source)
    # They speak of the old name. The next build makes them anew, out of what history has.
    (repository.root / lock_file(new)).unlink(missing_ok=True)
    shutil.rmtree((repository.root / git_record(new, "any")).parent, ignore_errors=True)


def remove_folder(repository: Repository, variant: str) -> None:
    """Remove a variant's folder as ``git rm`` does, and what git ignores in it.

    Raises:
        MachineError: git or the disk refuses.
    """
    _git(repository, "rm", "-r", "--quiet", "--", folder_of(variant).rstrip("/"))
    shutil.rmtree(repository.root / folder_of(variant), ignore_errors=True)


def _git(repository: Repository, *arguments: str) -> None:
    where = str(repository.root)
    done = run_git(["-C", where, *arguments], where=where, root=repository.root)
    if done.returncode:
        raise MachineError(
            f"`git {arguments[0]}` failed: {last_line(done.stderr)}",
            where=where,
            mend="mend what it says, then run again; `git status` shows where things stand",
        )
