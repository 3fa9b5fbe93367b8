"""Drops what requests leave when they are over: branches of built commits at the origin, and work trees here."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from typing import TYPE_CHECKING

from builder.request.assembled import STATE_FILE, kept_ref, request_folder
from builder.request.built import builds_here, stands_in, tracked_ref
from builder.request.plumbing import git, git_or_none
from builder.request.push import Move, push
from registry.errors import Error, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.request.built import Build
    from registry.history import Repository

__all__ = ["builds_over", "drop_builds", "retire_builds", "retire_trees"]

_DAY_S = 86_400.0
_MERGED_DAYS = 7  # its bytes may have to be sent again
_UNUSED_DAYS = 30
_FORGOTTEN_DAYS = 180
_LOCK = ".varietal/build.lock"  # what a build holds


def builds_over(repository: Repository) -> tuple[Build, ...]:
    """What was built for requests that main has, by what was fetched.

    A request is merged where main has its result, or all of what was built in whatever commit. What nobody has touched
    for half a year is over, too.

    Raises:
        NotFoundError: No main branch is known here.
    """
    root = repository.root
    main = repository.resolve(repository.main_branch())
    old = time.time() - _FORGOTTEN_DAYS * _DAY_S
    found = builds_here(root)
    return tuple(one for one in found if one.time_s < old or _is_merged(root, one.request, one.commit, main))


def drop_builds(repository: Repository, builds: Sequence[Build]) -> None:
    """Remove their branches at the origin, all or none.

    Raises:
        ConflictError: A runner has built there again since they were fetched.
        DeniedError: The origin lets us remove none.
        TransportError: It does not answer.
    """
    if builds:
        push(repository, [Move(ref=f"refs/heads/{one.branch}", old=one.commit, new="") for one in builds])
    for one in builds:
        git(repository.root, "update-ref", "-d", tracked_ref(one.branch))


def retire_builds(repository: Repository, say: Callable[[str], None]) -> tuple[str, ...]:
    """Remove the branches of what is over; where that may not be done, it is said.

    Args:
        repository: The repository, with what was fetched.
        say: Tells the person at the terminal.

    Returns:
        Branches that are gone.
    """
    over = builds_over(repository)
    try:
        drop_builds(repository, over)
    except Error as error:
        say(f"branches of merged requests stay at the origin, until `varietal publish --retire`: {error.what}")
        return ()
    return tuple(one.branch for one in over)


def retire_trees(repository: Repository, *, keep: str) -> tuple[str, ...]:
    """Remove work trees of requests that were merged a week ago or not used for a month, and that no build is in.

    Args:
        repository: The runner's repository.
        keep: Commit of the request that is at work now.

    Returns:
        Commits whose trees are gone.
    """
    root, gone = repository.root, []
    place = request_folder(root, keep).parent
    try:
        main = repository.resolve(repository.main_branch())
    except NotFoundError:
        return ()
    for state in sorted(place.glob(f"*/{STATE_FILE}")):
        folder = state.parent.parent
        age_s = time.time() - state.stat().st_mtime
        if folder.name == keep or age_s < _MERGED_DAYS * _DAY_S:
            continue
        if (age_s > _UNUSED_DAYS * _DAY_S or _is_in(root, folder.name, main)) and _remove(folder):
            git(root, "update-ref", "-d", kept_ref(folder.name))
            gone.append(folder.name)
    return tuple(gone)


def _is_merged(root: Path, request: str, build: str, main: str) -> bool:
    return _is_in(root, request, main) or stands_in(root, build, main, main)


def _is_in(root: Path, commit: str, main: str) -> bool:
    """Whether main has a commit; not where it is not known here."""
    known = git_or_none(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}") is not None
    return known and git_or_none(root, "merge-base", "--is-ancestor", commit, main) is not None


def _remove(folder: Path) -> bool:
    """Remove a tree, with the locks of building and of assembling held; not one that is in use."""
    locks = [folder / _LOCK, folder.with_name(f"{folder.name}.lock")]
    held = [os.open(path, os.O_RDWR | os.O_CREAT, 0o644) for path in locks if path.parent.is_dir()]
    try:
        for descriptor in held:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
        locks[1].unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        for descriptor in held:
            os.close(descriptor)
    return True
