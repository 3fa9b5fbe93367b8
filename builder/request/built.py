"""What runners pushed for earlier builds of a request: commits under ``refs/varietal/built/``, which only they write.

Such a commit comes from main and from builds before it, never from a commit of the request: the records in the history
of a request are its author's word, and nothing may be reused on that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.request.changes import changed_in_main
from builder.request.names import home_of
from builder.request.plumbing import git, git_or_none
from registry.record import BASES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BUILT_REFS", "GENERATED", "built_changes", "built_message", "find_built", "published_of"]

BUILT_REFS = "refs/varietal/built/"
"""One ref a branch; protect them like main, and fetch them: ``git fetch origin '+refs/varietal/*:refs/varietal/*'``."""

GENERATED = (
    "dvc.yaml",
    f"{BASES}/dvc.*",
    f"{BASES}/records/*.json",
    "models/*/dvc.yaml",
    "models/*/dvc.lock",
    "models/*/records/*.json",
)
"""Git's globs on pipelines, locks and records."""

_MOST_COMMITS = 10_000
_REQUEST = re.compile(rb"^Varietal-Request: ([0-9a-f]+)$", re.MULTILINE)
_PUBLISHED = re.compile(rb"^Varietal-Published: ([0-9a-f]+)$", re.MULTILINE)


def built_message(request: str, published: str) -> str:
    """Message of a commit under :data:`BUILT_REFS`.

    Args:
        request: Commit that was built.
        published: Commit on the request's branch that has the result.
    """
    return f"Build of a request\n\nVarietal-Request: {request}\nVarietal-Published: {published}\n"


def published_of(root: Path, built: str) -> str:
    """Commit that a build's result was published as; empty where it says nothing."""
    found = _PUBLISHED.search(git(root, "cat-file", "commit", built)) if built else None
    return found[1].decode() if found is not None else ""


def find_built(root: Path, request: str, main: str) -> str:
    """The newest build of a request, or of an earlier state of it; empty where there is none.

    Args:
        root: Root of the repository.
        request: Commit that asks for a merge.
        main: Commit of main.
    """
    own = _commits(root, request, main)
    out = git(root, "for-each-ref", "--format=%(objectname)%00%(contents)%00", "--", BUILT_REFS)
    fields = out.split(b"\0")
    built: dict[str, str] = {}
    for oid, message in zip(fields[::2], fields[1::2], strict=False):
        if found := _REQUEST.search(message):
            built[found[1].decode()] = oid.strip().decode()
    for commit in own:
        candidate = built.get(commit, "")
        if candidate and not set(own) & set(_commits(root, candidate, main)):
            return candidate
    return ""


def built_changes(root: Path, built: str, main: str) -> dict[str, str | None]:
    """Locks and records that a build has made, where main has not changed those of the same variant since.

    Args:
        root: Root of the repository.
        built: Commit that a runner pushed.
        main: Commit of main.

    Returns:
        Blob by path; ``None`` where a file is gone.
    """
    common = (git_or_none(root, "merge-base", built, main) or b"").decode().strip()
    if not common:
        return {}
    since = {home_of(path) for path in changed_in_main(root, common, main, GENERATED)}
    made = changed_in_main(root, common, built, GENERATED)
    return {path: oid for path, oid in made.items() if (home := home_of(path)) and home not in since}


def _commits(root: Path, commit: str, main: str) -> tuple[str, ...]:
    """Commits that main lacks, newest first."""
    out = git(root, "rev-list", f"--max-count={_MOST_COMMITS}", commit, f"^{main}")
    return tuple(out.decode().split())
