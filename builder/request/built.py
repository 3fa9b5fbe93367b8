"""What runners pushed for earlier builds of a request: branches ``varietal/built/<id>``, which only they may write.

Such a commit comes from main and from builds before it, never from a commit of the request: the records in the history
of a request are its author's word, and nothing may be reused on that.
"""

from __future__ import annotations

import os
import re
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.request.changes import changed_in_main
from builder.request.names import DATA, PROJECT, REWARDS, home_of
from builder.request.plumbing import entries_at, git, git_or_none, merge_base
from builder.request.project import takes_over
from registry.digest import digest_bytes
from registry.record import BASES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "BUILT_BRANCHES",
    "GENERATED",
    "Build",
    "builds_here",
    "built_branch",
    "built_changes",
    "built_message",
    "find_builds",
    "is_build",
    "published_of",
    "stands_in",
    "tracked_ref",
]

BUILT_BRANCHES = "varietal/built/"
"""Branches of the origin, one for each branch that was built. A branch rule keeps all others from writing there."""

_TRACKED = f"refs/remotes/origin/{BUILT_BRANCHES}"

GENERATED = (
    "dvc.yaml",
    f"{BASES}/dvc.*",
    f"{BASES}/records/*.json",
    "models/*/dvc.yaml",
    "models/*/dvc.lock",
    "models/*/records/*.json",
    "models/*/records/*.tsv",
)
"""Git's globs on pipelines, locks, records and their curves."""

_MOST_COMMITS = 10_000
_MOST_LETTERS = 200
_PLAIN = frozenset(string.ascii_lowercase + string.digits + "-_")
_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REQUEST = re.compile(rb"^Varietal-Request: ([0-9a-f]+)$", re.MULTILINE)
_PUBLISHED = re.compile(rb"^Varietal-Published: ([0-9a-f]+)$", re.MULTILINE)


def built_message(request: str, published: str) -> str:
    """Message of a commit under :data:`BUILT_BRANCHES`.

    Args:
        request: Commit that was built.
        published: Commit on the request's branch that has the result.
    """
    return f"Build of a request\n\nVarietal-Request: {request}\nVarietal-Published: {published}\n"


def published_of(root: Path, built: str) -> str:
    """Commit that a build's result was published as; empty where it says nothing."""
    found = _PUBLISHED.search(git(root, "cat-file", "commit", built)) if built else None
    return found[1].decode() if found is not None else ""


def built_branch(branch: str) -> str:
    """The branch that keeps what was built for another one; the names of two never stand in each other's way.

    All but small letters, digits, ``-`` and ``_`` is written as ``%2f``, so no folder of one is a file of another, and
    no two differ by case alone.
    """
    plain = "".join(
        chr(byte) if chr(byte) in _PLAIN else f"%{byte:02x}" for byte in branch.encode("utf-8", "surrogateescape")
    )
    if len(plain) > _MOST_LETTERS:
        plain = f"{plain[: _MOST_LETTERS // 2]}={digest_bytes(branch.encode()).hex}"
    return f"{BUILT_BRANCHES}{plain}"


def tracked_ref(branch: str) -> str:
    """Where the runner's repository has what it fetched of such a branch."""
    return f"refs/remotes/origin/{branch}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """What a runner pushed.

    Attributes:
        branch: Its branch at the origin.
        commit: The commit there.
        request: Commit that was built.
        time_s: When it was made, in seconds of the epoch.
    """

    branch: str
    commit: str
    request: str
    time_s: int


def builds_here(root: Path) -> tuple[Build, ...]:
    """The builds that were fetched, newest first."""
    fields = "%(refname)%00%(objectname)%00%(committerdate:unix)%00%(contents)%00"
    out = git(root, "for-each-ref", "--sort=-committerdate", f"--format={fields}", "--", _TRACKED)
    parts = out.split(b"\0")
    rows = zip(parts[::4], parts[1::4], parts[2::4], parts[3::4], strict=False)
    return tuple(
        Build(
            branch=os.fsdecode(ref.strip()).removeprefix(tracked_ref("")),
            commit=oid.decode(),
            request=found[1].decode(),
            time_s=int(time_s or b"0"),
        )
        for ref, oid, time_s, message in rows
        if (found := _REQUEST.search(message))
    )


def is_build(root: Path, commit: str) -> bool:
    """Whether a commit is what a runner pushed, or one before it."""
    if _ID.fullmatch(commit) is None or git_or_none(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return False
    return bool(git(root, "for-each-ref", "--count=1", f"--contains={commit}", "--", _TRACKED).strip())


def find_builds(root: Path, request: str, main: str) -> tuple[str, ...]:
    """The builds that a request may take locks and records from, newest first.

    A build counts where its request is an earlier state of this one, or one that went into it, as in a merge queue; and
    where all of it stands in this request alike, in whatever commits a squash or a rebase has put it.

    Args:
        root: Root of the repository.
        request: Commit that asks for a merge.
        main: Commit of main.
    """
    own = {commit: place for place, commit in enumerate(_commits(root, request, main))}
    found: list[tuple[int, str]] = []
    for build in builds_here(root):
        if own.keys() & set(_commits(root, build.commit, main)):
            continue  # it comes from the request itself, whose records are its author's word
        if build.request in own:
            found.append((own[build.request], build.commit))
        elif stands_in(root, build.commit, main, request):
            found.append((len(own), build.commit))
    return tuple(commit for _, commit in sorted(found))


def stands_in(root: Path, build: str, main: str, commit: str) -> bool:
    """Whether what a runner built, and what it was built from, is in a commit byte for byte.

    Args:
        root: Root of the repository.
        build: Commit that a runner pushed.
        main: Commit of main.
        commit: The commit to look into.
    """
    common = merge_base(root, build, main)
    if not common:
        return False
    made = changed_in_main(
        root, common, build, (*GENERATED, "models/*/model.yaml", f"{DATA}/**", f"{REWARDS}/**", PROJECT)
    )
    project = made.pop(PROJECT, None)
    here = {path: entry.oid for path, entry in entries_at(root, commit, list(made)).items()}
    if not any(map(home_of, made)) or any(here.get(path) != oid for path, oid in made.items()):
        return False
    texts = (_blob(root, one) for one in (common, build, commit))
    return project is None or takes_over(*texts, where=PROJECT)


def _blob(root: Path, commit: str) -> bytes:
    entry = entries_at(root, commit, [PROJECT]).get(PROJECT)
    return git(root, "cat-file", "blob", entry.oid) if entry is not None else b""


def built_changes(root: Path, built: str, main: str) -> dict[str, str | None]:
    """Locks and records that a build has made, where main has not changed those of the same variant since.

    Args:
        root: Root of the repository.
        built: Commit that a runner pushed.
        main: Commit of main.

    Returns:
        Blob by path; ``None`` where a file is gone.
    """
    common = merge_base(root, built, main)
    if not common:
        return {}
    since = {home_of(path) for path in changed_in_main(root, common, main, GENERATED)}
    made = changed_in_main(root, common, built, GENERATED)
    return {path: oid for path, oid in made.items() if (home := home_of(path)) and home not in since}


def _commits(root: Path, commit: str, main: str) -> tuple[str, ...]:
    """Commits that main lacks, newest first."""
    out = git(root, "rev-list", f"--max-count={_MOST_COMMITS}", commit, f"^{main}")
    return tuple(out.decode().split())
