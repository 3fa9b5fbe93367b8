"""Bare copies of other repositories in a cache folder, for a host that has no checkout."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import ConflictError, DeniedError, TransportError
from registry.file_lock import locked
from registry.history import Repository, last_line, run_git, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["mirror", "remote_settings"]

_TIMEOUT_S = 1800.0
_DENIED = re.compile(r"authentication failed|permission denied|could not read username|error: 40[13]", re.IGNORECASE)


def mirror(url: str, cache: Path, *, refresh: bool = True) -> Repository:
    """A bare copy of a repository in a cache folder, brought up to date.

    Branches follow the origin, and so does which of them is the main one. A tag that the origin has moved is refused,
    and one that it removed stays: releases do not move.

    Args:
        url: Anything that ``git clone`` takes.
        cache: Folder for such copies; each URL has one of its own in it.
        refresh: Whether to ask the origin again where there is a copy.

    Raises:
        TransportError: The origin does not answer, or is no repository.
        DeniedError: The origin refuses the credentials.
        ConflictError: A tag was moved at the origin.
        MachineError: git is missing or timed out.
    """
    folder = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:24]}.git"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not folder.exists():
            _clone(url, folder)
        elif refresh:
            _fetch(url, folder)
    return Repository(folder, bare=True)


@contextmanager
def remote_settings(repository: Repository) -> Iterator[Path]:
    """A folder in which DVC finds the remotes of a bare copy, as its main branch sets them up today.

    Raises:
        NotFoundError: The repository has no DVC configuration.
    """
    with tempfile.TemporaryDirectory(prefix="varietal-") as name:
        folder = Path(name) / ".dvc"
        folder.mkdir()
        (folder / "config").write_bytes(repository.read("HEAD", ".dvc/config"))
        (folder / "config.local").write_text("[core]\n    no_scm = true\n", encoding="ascii")
        yield Path(name)


def _clone(url: str, folder: Path) -> None:
    work = folder.with_suffix(".clone")
    if work.exists():  # of a clone that was killed: the lock is ours
        shutil.rmtree(work)
    work.mkdir(mode=0o700)
    try:
        _talk(["clone", "--quiet", "--bare", "--template=", "--", url, str(work)], url)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch(url: str, folder: Path) -> None:
    head = _talk(["ls-remote", "--quiet", "--symref", "--", url, "HEAD"], url)
    fetch = [f"--git-dir={folder}", "fetch", "--no-progress", "--no-auto-gc", "--no-tags"]
    # Tags are kept when the origin drops them: else one that is removed and made again would have moved unseen.
    _talk([*fetch, "--no-prune", "--", url, "refs/tags/*:refs/tags/*"], url)
    _talk([*fetch, "--prune", "--", url, "+refs/heads/*:refs/heads/*"], url)
    if main := re.match(rb"ref: (refs/heads/\S+)\tHEAD\n", head):  # none where the origin has no branch checked out
        _talk([f"--git-dir={folder}", "symbolic-ref", "HEAD", main[1].decode(errors="surrogateescape")], url)


def _talk(arguments: Sequence[str], url: str) -> bytes:
    """Run a git command that talks to an origin; what it printed, or what can go wrong, narrowed."""
    where = without_secrets(url)
    done = run_git(arguments, where=where, timeout_s=_TIMEOUT_S)
    if done.returncode == 0:
        return done.stdout
    text = done.stderr.decode(errors="replace")
    if "would clobber existing tag" in text:
        moved = sorted(set(re.findall(r"\[rejected\]\s+(\S+)", text)))
        raise ConflictError(
            f"moved at the origin: {', '.join(moved)}",
            where=where,
            mend="a release never moves; ask who moved it, then remove the cached copy if the new place is right",
        )
    if _DENIED.search(text):
        raise DeniedError(f"git: {last_line(done.stderr)}", where=where, mend="check the credentials that git uses")
    raise TransportError(f"git: {last_line(done.stderr)}", where=where, mend="check the URL and the network")
