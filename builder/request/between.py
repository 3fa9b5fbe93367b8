"""Records that stood in some commit of a request and that no runner wrote, also where a later commit took them out.

A merge commit or a squash leaves such a commit off main's own line, and nothing is reused on its word. A rebase or a
fast-forward puts it there, so the gate looks at each commit that might come to stand on the line:

1. those that main lacks;
2. those that main has, but not on its line, and from which the request comes by first parents.

In each, a record is one of these, or nobody answers for it: as in its first parent, where that one is looked at too or
is on the line; as in another such parent; what a runner wrote; what stood there on main's line at any time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.request.changes import changed_in_each
from builder.request.plumbing import entries_at, git, tree_of
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["Between", "unwritten_between"]

_MOST_COMMITS = 5_000
_MOST_ASKED = 100  # records that are looked for on main's line, a tenth of a second each at the worst
_RECORD = re.compile(r"(?:bases|models/[^/]+)/records/[^/]+\.json")
_ON_THE_WAY = re.compile(r"bases|bases/records|models|models/[^/]+|models/[^/]+/records")


@dataclass(frozen=True, kw_only=True, slots=True)
class Between:
    """A record that no runner wrote.

    Attributes:
        commit: Commit that brought it.
        path: Where it stood there.
        merged: Whether main has the commit, though not on its line: no squash of the request's own commits drops it.
    """

    commit: str
    path: str
    merged: bool = False

    def __str__(self) -> str:
        """For people."""
        return f"{self.path} of commit {self.commit[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Commit:
    tree: str
    parents: tuple[str, ...]


def unwritten_between(root: Path, request: str, main: str, builds: Sequence[str]) -> tuple[Between, ...]:
    """What a rebase or a fast-forward would make main answer for, each record once, newest commit first.

    Args:
        root: Root of the repository.
        request: Commit that asks for a merge.
        main: Commit of main.
        builds: Commits that runners pushed for it.

    Raises:
        InvalidError: The request has more commits, or they change more, than any request needs.
    """
    line = frozenset(_ids(root, "--first-parent", main))
    lacked = _ids(root, f"--max-count={_MOST_COMMITS + 1}", request, f"^{main}")
    if len(lacked) > _MOST_COMMITS:
        raise _too_many(request, f"the request has more than {_MOST_COMMITS} commits that main lacks", "squash them")
    own = _commits(root, [*lacked, *_off(root, request, line)])
    if len(own) > _MOST_COMMITS:
        what = f"the request comes from commits that main has, but not on its line, more than {_MOST_COMMITS} in all"
        raise _too_many(request, what, "rebase the request onto main")
    mine = frozenset(lacked)
    written = {
        oid for changes in _brought(root, _runners(root, builds, main), line, main).values() for oid in changes.values()
    }
    found: list[Between] = []
    asked: dict[tuple[str, str], bool] = {}
    for commit, changes in _brought(root, own, line, main).items():
        strange = {path: oid for path, oid in changes.items() if oid not in written}
        for parent in own[commit].parents[1:]:
            if strange and (parent in own or parent in line):
                there = entries_at(root, parent, [path for path in strange if path.isprintable()])
                strange = {path: oid for path, oid in strange.items() if path not in there or there[path].oid != oid}
        for path, oid in strange.items():
            if (path, oid) in asked:
                continue
            if len(asked) == _MOST_ASKED:
                what = f"its commits have more than {_MOST_ASKED} records that no build which is known here wrote"
                mend = "fetch the built branches; if that does not help, rebase the request onto main and squash it"
                raise _too_many(request, what, mend)
            asked[path, oid] = _stood(root, main, path, oid)
            found += [] if asked[path, oid] else [Between(commit=commit, path=path, merged=commit not in mine)]
    return tuple(found)


def _too_many(request: str, what: str, mend: str) -> InvalidError:
    return InvalidError(what, where=f"commit {request}", mend=mend)


def _ids(root: Path, *arguments: str) -> list[str]:
    return git(root, "rev-list", *arguments, "--").decode().split()


def _off(root: Path, request: str, line: frozenset[str]) -> list[str]:
    """Where a request comes from by first parents, down to main's line."""
    found: list[str] = []
    for commit in _ids(root, "--first-parent", f"--max-count={_MOST_COMMITS + 1}", request):
        if commit in line:
            break
        found.append(commit)
    return found


def _runners(root: Path, builds: Sequence[str], main: str) -> dict[str, _Commit]:
    return _commits(root, _ids(root, *builds, f"^{main}")) if builds else {}


def _commits(root: Path, ids: Iterable[str]) -> dict[str, _Commit]:
    """Tree and parents of commits, in their order, each once."""
    wanted = list(dict.fromkeys(ids))
    questions = "".join(f"{one}\n" for one in wanted).encode()
    out = git(root, "log", "--no-walk=unsorted", "--stdin", "--format=%H %T %P", data=questions) if wanted else b""
    rows = (line.split() for line in out.decode().splitlines())
    return {row[0]: _Commit(tree=row[1], parents=tuple(row[2:])) for row in rows}


def _brought(root: Path, commits: Mapping[str, _Commit], line: frozenset[str], main: str) -> dict[str, dict[str, str]]:
    """Records of each commit that are not those of its first parent, or of main where nobody answers for that one."""
    first = {id_: one.parents[0] for id_, one in commits.items() if one.parents}
    good = {id_: parent for id_, parent in first.items() if parent in commits or parent in line}
    trees = {id_: one.tree for id_, one in _commits(root, good.values()).items()}
    ours = tree_of(root, main)
    pairs = {id_: (trees[good[id_]] if id_ in good else ours, one.tree) for id_, one in commits.items()}
    changed = changed_in_each(root, pairs.values(), looks_into=lambda path: bool(_ON_THE_WAY.fullmatch(path)))
    return {
        id_: {one.path: one.new.oid for one in changed[pair] if one.new is not None and _RECORD.fullmatch(one.path)}
        for id_, pair in pairs.items()
    }


def _stood(root: Path, main: str, path: str, oid: str) -> bool:
    """Whether a record ever was this on main's line."""
    if not path.isprintable():
        return False
    out = git(
        root,
        *("log", "--first-parent", "-m", f"--find-object={oid}", "--max-count=1", "--format=%H", main),
        *("--", f":(top,literal){path}"),
    )
    return bool(out.strip())
