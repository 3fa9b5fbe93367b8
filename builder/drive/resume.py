"""Whether a build may go on from what others finished: asked once, at its start."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.drive.asking import ask
from builder.request.machine import QUARANTINE, remote_names
from registry.errors import Error
from registry.history import Repository
from registry.runners import runner_rules_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.drive.errand import Errand

__all__ = ["resumable"]


def resumable(errand: Errand, environment: Mapping[str, str], say: Callable[[str], None]) -> Errand | None:
    """What looks for notes before each stage; ``None`` where main believes nobody, or nobody left any.

    What stands in the way of looking is told, and the build goes on without: it loses time and nothing else.

    Args:
        errand: What is built, and where its bytes go.
        environment: That of the build, with its credentials.
        say: Tells the person at the terminal.
    """
    try:
        if not errand.commits or not runner_rules_of(Repository(errand.home)).of(errand.kind):
            return None
        remote = errand.remote or (QUARANTINE if errand.kind == "requests" else "")
        if remote and remote not in remote_names(errand.home):
            return None
        where = f"remote {remote!r}" if remote else "the default remote"
        asked = replace(errand, remote=remote, signs=False)
        answer = ask("builder.drive.recall", asked.to_text(), folder=errand.root, environment=environment, where=where)
    except Error as error:
        say(f"progress notes are not looked for: {error.what} ({error.where})")
        return None
    found = tuple(commit for commit in errand.commits if commit in answer.split())
    return replace(asked, commits=found) if found else None
