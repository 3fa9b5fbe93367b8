"""The main branch as it is known here now: what is promoted and described must be on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import NotFoundError, RefusedError

if TYPE_CHECKING:
    from registry.history import Repository

__all__ = ["check_on_main", "off_main"]


def off_main(repository: Repository, commit: str) -> str:
    """Why a commit cannot be said to be on the main branch; empty where it is on it."""
    try:
        main = repository.main_branch()
    except NotFoundError as error:
        return error.what
    if repository.is_ancestor(commit, main):
        return ""
    if repository.is_shallow():
        return f"history is cut off here, so it cannot be told whether commit {commit[:12]} is on the main branch"
    return f"commit {commit[:12]} is not on the main branch, {main}"


def check_on_main(act: str, problem: str) -> None:
    """Refuse what :func:`off_main` has something to say against.

    Args:
        act: What is refused, such as ``support@v1.0.0 is not described``.
        problem: What it said.

    Raises:
        RefusedError: It said something.
    """
    if problem:
        raise RefusedError(
            f"{act}: {problem}",
            where="tags of the repository",
            mend="`git fetch`, where history is cut off `git fetch --unshallow --tags`; if it stays, ask who made the "
            "tag, and release from the main branch: `varietal release`",
        )
