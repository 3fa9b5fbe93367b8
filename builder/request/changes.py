"""What one commit has otherwise than another, found folder by folder, with an end to it.

A tree of a few kilobytes can name billions of files, by naming one folder many times over. So git is never asked for a
whole tree of a request: one level is compared at a time, folders that are equal are not looked into, and what is more
than a request can sensibly change ends the walk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.request.plumbing import Entry, git, git_stream
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import IO

__all__ = ["MAX_CHANGES", "Changed", "changed_in_each", "changed_in_main", "changed_paths"]

MAX_CHANGES = 20_000
"""Entries that may differ, folders counted."""

_MAX_DEPTH = 32
_MAX_IN_ALL = 200_000
_MAX_BYTES = 64 << 20  # that git prints of one level: names may be of any length
_BLOCK_BYTES = 1 << 16
_FOLDER = "040000"
_NOTHING = "000000"


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """A path that differs.

    Attributes:
        path: From the root; a folder where it was not looked into, or became something else.
        old: What it was; ``None`` where there was nothing.
        new: What it is; ``None`` where there is nothing any more.
    """

    path: str
    old: Entry | None
    new: Entry | None


def changed_paths(root: Path, old: str, new: str, *, looks_into: Callable[[str], bool]) -> tuple[Changed, ...]:
    """Everything that differs between two commits, sorted by path.

    Args:
        root: Root of the repository.
        old: Id of a commit or tree.
        new: Id of another.
        looks_into: Whether a folder that differs is to be walked; else it is given as one path.

    Raises:
        InvalidError: More differs than :data:`MAX_CHANGES`, or folders lie deeper than any request needs.
    """
    nothing = git(root, "hash-object", "-t", "tree", "--stdin").decode().strip()
    found: list[Changed] = []
    level = {"": (_tree(root, old), _tree(root, new))}
    seen = 0
    too_much = _too_much(f"commit {new}", f"more than {MAX_CHANGES} files and folders differ")
    for _ in range(_MAX_DEPTH):
        if not level:
            return tuple(sorted(found, key=lambda one: one.path))
        below: dict[str, tuple[str, str]] = {}
        answers = _compare(root, set(level.values()), most=MAX_CHANGES - seen, error=too_much)
        for folder, pair in level.items():
            entries = answers.get(pair, ())
            seen += len(entries)
            if seen > MAX_CHANGES:
                raise too_much
            for name, before, after in entries:
                path = f"{folder}{name}"
                sides = [one for one in (before, after) if one is not None]
                if all(one.mode == _FOLDER for one in sides) and looks_into(path):
                    below[f"{path}/"] = (before.oid if before else nothing, after.oid if after else nothing)
                else:
                    found.append(Changed(path=path, old=before, new=after))
        level = below
    raise _too_much(f"commit {new}", f"folders lie more than {_MAX_DEPTH} deep")


def changed_in_each(
    root: Path, pairs: Iterable[tuple[str, str]], *, looks_into: Callable[[str], bool]
) -> dict[tuple[str, str], tuple[Changed, ...]]:
    """The same between many trees, each an old and a new one, at one call of git a level.

    Args:
        root: Root of the repository.
        pairs: Ids of trees, two by two.
        looks_into: Whether a folder that differs is to be walked; else it is given as one path.

    Raises:
        InvalidError: More differs than any request needs, in all of them together.
    """
    wanted = set(pairs)
    nothing = git(root, "hash-object", "-t", "tree", "--stdin").decode().strip()
    found: dict[tuple[str, str], list[Changed]] = {pair: [] for pair in wanted}
    level = [("", pair, pair) for pair in wanted if pair[0] != pair[1]]
    seen = 0
    too_much = _too_much(
        "the commits of the request", f"more than {_MAX_IN_ALL} files and folders differ from commit to commit"
    )
    for _ in range(_MAX_DEPTH):
        if not level:
            break
        below: list[tuple[str, tuple[str, str], tuple[str, str]]] = []
        answers = _compare(root, {inner for _, _, inner in level}, most=_MAX_IN_ALL - seen, error=too_much)
        for folder, pair, inner in level:
            for name, before, after in answers.get(inner, ()):
                seen += 1
                if seen > _MAX_IN_ALL:
                    raise too_much
                path, sides = f"{folder}{name}", [one for one in (before, after) if one is not None]
                if any(one.mode == _FOLDER for one in sides) and looks_into(path):
                    trees = (one.oid if one is not None and one.mode == _FOLDER else nothing for one in (before, after))
                    below.append((f"{path}/", pair, (next(trees), next(trees))))
                else:
                    found[pair].append(Changed(path=path, old=before, new=after))
        level = below
    return {pair: tuple(changes) for pair, changes in found.items()}


def changed_in_main(root: Path, old: str, new: str, patterns: Sequence[str]) -> dict[str, str | None]:
    """Blob by path of what differs between two commits that no request made; ``None`` where a file is gone.

    Args:
        root: Root of the repository.
        old: Id of a commit.
        new: Id of another.
        patterns: Git's globs on paths.
    """
    wanted = [f":(top,glob){pattern}" for pattern in patterns]
    out = git(root, "diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", old, new, "--", *wanted)
    fields = _fields([out])
    found: dict[str, str | None] = {}
    for _, text in fields:
        modes = text.decode().lstrip(":").split()
        after = _entry(modes[1], modes[3])
        found[os.fsdecode(next(fields)[1])] = None if after is None else after.oid
    return found


def _tree(root: Path, revision: str) -> str:
    return git(root, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{tree}}").decode().strip()


def _compare(
    root: Path, pairs: set[tuple[str, str]], *, most: int, error: InvalidError
) -> dict[tuple[str, str], list[tuple[str, Entry | None, Entry | None]]]:
    """The entries of each two trees that differ; every pair is compared once, however often it occurs.

    They are counted while git prints them: a few kilobytes of trees may differ in more than fits into memory.

    Raises:
        InvalidError: What was given, where there are more of them.
    """
    questions = "".join(f"{old} {new}\n" for old, new in sorted(pairs)).encode()
    found: dict[tuple[str, str], list[tuple[str, Entry | None, Entry | None]]] = {}
    current: list[tuple[str, Entry | None, Entry | None]] = []
    options = ("--stdin", "-z", "--raw", "--no-renames", "--no-abbrev")
    with git_stream(root, "diff-tree", *options, data=questions) as stream:
        fields = _fields(_blocks(stream, error))
        for kind, text in fields:
            if kind == "pair":
                old, _, new = text.partition(b" ")
                current = found.setdefault((old.decode(), new.decode()), [])
                continue
            most -= 1
            if most < 0:
                raise error
            modes = text.decode().lstrip(":").split()
            _, name = next(fields)
            current.append((os.fsdecode(name), _entry(modes[0], modes[2]), _entry(modes[1], modes[3])))
    return found


def _blocks(stream: IO[bytes], error: InvalidError) -> Iterator[bytes]:
    """What git prints; names may be of any length, so that has an end too."""
    left = _MAX_BYTES
    while block := stream.read(_BLOCK_BYTES):
        left -= len(block)
        if left < 0:
            raise error
        yield block


def _fields(blocks: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """The parts of what git printed: the line of a pair ends with a line break, all others with a NUL."""
    rest = bytearray()
    for block in blocks:
        rest += block
        place = 0
        while place < len(rest):
            if rest[place : place + 1] == b":":
                middle = rest.find(b"\0", place)
                end = rest.find(b"\0", middle + 1) if middle >= 0 else -1
                if end < 0:
                    break
                yield "entry", bytes(rest[place:middle])
                yield "name", bytes(rest[middle + 1 : end])
            else:
                end = rest.find(b"\n", place)
                if end < 0:
                    break
                yield "pair", bytes(rest[place:end])
            place = end + 1
        del rest[:place]


def _entry(mode: str, oid: str) -> Entry | None:
    return None if mode == _NOTHING else Entry(mode=mode, oid=oid)


def _too_much(where: str, what: str) -> InvalidError:
    return InvalidError(what, where=where, mend="split the request; large data goes to DVC")
