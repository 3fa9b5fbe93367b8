"""Removes the progress notes of builds whose result is published: git has what they say, so nobody needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.request.plumbing import git
from builder.runner import read_runner
from registry.errors import Error
from registry.progress_note import Scope, scope_folder
from registry.remote_files import RemoteFiles
from registry.runners import runner_rules_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.history import Repository

__all__ = ["forget_notes"]

_MOST_COMMITS = 32  # from whose notes a build goes on


def forget_notes(repository: Repository, remote: str, scope: Scope, say: Callable[[str], None]) -> None:
    """Remove the notes of a build, and of those that it may have gone on from: of earlier commits of its line.

    Nothing is done where main names no runner, for then nobody wrote any. That fails quietly: who publishes may only
    read there, and a note that stays says nothing that is not so.

    Args:
        repository: The runner's repository.
        remote: DVC remote that the bytes were published to; empty for the default one.
        scope: The build.
        say: Tells the person at the terminal.
    """
    try:
        if not runner_rules_of(repository).of(scope.kind):
            return
        remotes, scopes = _remotes(repository, remote, scope), _scopes(repository, scope)
    except Error as error:
        say(_stay(scope, error))
        return
    for name in remotes:
        files = RemoteFiles(repository.root, name)
        try:
            for one in scopes:
                files.remove_folder(scope_folder(one))
        except Error as error:
            say(_stay(scope, error))


def _remotes(repository: Repository, remote: str, scope: Scope) -> tuple[str, ...]:
    """Where notes may lie: a branch is built with its bytes going to where this machine's settings say."""
    own = (read_runner(repository.root).push,) if scope.kind == "branches" else ()
    return tuple(dict.fromkeys((remote, *own)))


def _scopes(repository: Repository, scope: Scope) -> tuple[Scope, ...]:
    """The build, and earlier ones of the same work: what main has is left alone, unless that is what was built."""
    main = repository.resolve(repository.main_branch())
    is_main = scope.kind == "branches" and repository.is_ancestor(scope.commit, main)
    before = () if is_main else (f"^{main}",)
    out = git(repository.root, "rev-list", "--first-parent", f"--max-count={_MOST_COMMITS}", scope.commit, *before)
    commits = dict.fromkeys((scope.commit, *out.decode().split()))
    return tuple(Scope(kind=scope.kind, commit=one) for one in commits)


def _stay(scope: Scope, error: Error) -> str:
    return f"progress notes of commit {scope.commit[:12]} and before stay: {error.what} ({error.where})"
