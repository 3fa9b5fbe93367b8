"""Removes the progress notes of a build whose result is published: git has what they say, so nobody needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import Error
from registry.progress_note import scope_folder
from registry.remote_files import RemoteFiles
from registry.runners import runner_rules_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.history import Repository
    from registry.progress_note import Scope

__all__ = ["forget_notes"]


def forget_notes(repository: Repository, remote: str, scope: Scope, say: Callable[[str], None]) -> None:
    """Remove the notes of a build; nothing where main names no runner, for then nobody wrote any.

    That fails quietly: who publishes may only read there, and a note that stays says nothing that is not so.

    Args:
        repository: The runner's repository.
        remote: DVC remote that the build sent its bytes to; empty for the default one.
        scope: The build.
        say: Tells the person at the terminal.
    """
    try:
        if runner_rules_of(repository).of(scope.kind):
            RemoteFiles(repository.root, remote).remove_folder(scope_folder(scope))
    except Error as error:
        say(f"progress notes of commit {scope.commit[:12]} stay: {error.what} ({error.where})")
