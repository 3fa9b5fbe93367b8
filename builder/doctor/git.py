"""git: its version, who commits, whether all of history is here, and the clock beside the newest commit."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from builder.doctor.finding import failed, good, poor
from registry.errors import NotFoundError
from registry.history import run_git

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.doctor.finding import Finding
    from registry.history import Repository

__all__ = ["clock_finding", "git_findings", "version_finding"]

_OLDEST: Final = (2, 31)
"""Settings by ``GIT_CONFIG_COUNT``, through which a token reaches git and no file."""
_FEW_MINUTES_S: Final = 300
_DAY_S: Final = 86_400


def git_findings(repository: Repository) -> Iterator[Finding]:
    """What there is to say of git and of this repository.

    Raises:
        MachineError: git is missing or does not answer.
    """
    where = str(repository.root)
    yield version_finding(run_git(["--version"], where=where).stdout.decode())
    if repository.ask("var", "GIT_COMMITTER_IDENT").returncode or not _has_identity(repository):
        mend = "`git config user.name NAME` and `git config user.email ADDRESS`"
        yield poor("git identity", "git does not know who commits and tags here", mend)
    else:
        yield good("git identity", "git knows who commits and tags here")
    if repository.is_shallow():
        mend = "`git fetch --unshallow`: releases, lineage and reuse are read from history"
        yield failed("history", "the clone is shallow: what came before is missing", mend)
    else:
        yield good("history", "all of it is here")
    try:
        yield good("main branch", repository.main_branch())
    except NotFoundError as error:
        yield poor("main branch", error.what, error.mend)
    newest = repository.ask("log", "--all", "--max-count=1", "--format=%ct").stdout.decode().strip()
    yield clock_finding(int(newest) if newest.isdigit() else 0, time.time())


def version_finding(said: str) -> Finding:
    """Whether a version of git will do.

    Args:
        said: What ``git --version`` prints.
    """
    match = re.search(r"(\d+)\.(\d+)", said)
    found = (int(match[1]), int(match[2])) if match else (0, 0)
    text = said.strip() or "no version"
    if found < _OLDEST:
        return failed("git", text, f"install git {_OLDEST[0]}.{_OLDEST[1]} or newer")
    return good("git", text)


def clock_finding(newest: int, now: float) -> Finding:
    """Whether the clock can be right.

    Args:
        newest: Time of the newest commit, in seconds since 1970; 0 where there is none.
        now: Time by this machine's clock.
    """
    ahead = newest - now
    if ahead < _FEW_MINUTES_S:
        return good("clock", "not before the newest commit")
    mend = "set the clock of this machine (`timedatectl set-ntp true`), or find out who committed in the future"
    said = f"{ahead / 60:.0f} minutes before the newest commit"
    return failed("clock", said, mend) if ahead > _DAY_S else poor("clock", said, mend)


def _has_identity(repository: Repository) -> bool:
    """Whether it is set: git would else make one up of the user and the host, which says nothing to others."""
    said = repository.ask("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
    return said.returncode == 0
