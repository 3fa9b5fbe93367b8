"""Git's objects, read and written by plumbing in the runner's repository: no hook runs, and no filter.

What a request holds is only ever read as git's objects, so nothing that the request names (a filter, a submodule, a
link) is followed, whatever git is set up to do here.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import DeniedError, Error, InvalidError, MachineError, TransportError
from registry.history import last_line, run_git, start_git

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import IO

__all__ = [
    "FILE",
    "FOLDER",
    "Entry",
    "commit_alike",
    "commit_tree",
    "entries_at",
    "git",
    "git_or_none",
    "git_stream",
    "identity_of",
    "keep",
    "merge_base",
    "objects_of",
    "patched",
    "tree_files",
    "tree_of",
]

FILE = "100644"
"""Git's mode of a plain file; whether it may be run is not taken over."""

FOLDER = "040000"
"""Git's mode of a tree."""

_KINDS = {FOLDER: "tree", "160000": "commit"}
_FULL = re.compile("No space left on device|Disk quota exceeded|disk full", re.IGNORECASE)
_DENIED = re.compile("Permission denied|insufficient permission|dubious ownership|Read-only file system", re.IGNORECASE)
_FAR = frozenset({"fetch", "ls-remote", "push"})
_IDENTITY = re.compile(rb"(.*) <(.*)> \d+ [-+]\d{4}\n")
_RUNNER = ("varietal", "varietal@localhost")  # where git was told of nobody
_STREAM_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An entry of a tree: git's mode, and the id of what it names."""

    mode: str
    oid: str


def git(root: Path, *arguments: str, data: bytes = b"", settings: Sequence[str] = ()) -> bytes:
    """What a git command printed; no hook runs.

    Args:
        root: Root of the repository that it runs in.
        *arguments: The command; what a person typed never stands where git reads options.
        data: Its standard input.
        settings: Further settings, as ``key=value``.

    Raises:
        MachineError: It failed, since the disk is full.
        DeniedError: Since something may not be read or written.
        TransportError: Since the other side did not answer.
        InvalidError: Otherwise.
    """
    done = run_git(_command(root, arguments, settings), where=str(root), data=data, root=root)
    if done.returncode:
        raise _failure(root, arguments, done.stderr)
    return done.stdout


def git_or_none(root: Path, *arguments: str, data: bytes = b"") -> bytes | None:
    """The same; ``None`` where the command says no, by exit code 1.

    Raises:
        Error: It failed otherwise, by class as above.
    """
    done = run_git(_command(root, arguments, ()), where=str(root), data=data, root=root)
    if done.returncode > 1:
        raise _failure(root, arguments, done.stderr)
    return done.stdout if done.returncode == 0 else None


@contextmanager
def git_stream(root: Path, *arguments: str, data: bytes) -> Iterator[IO[bytes]]:
    """The same, to be read while git prints it; who has read enough leaves, and git ends.

    Args:
        root: Root of the repository that it runs in.
        *arguments: The command.
        data: Its standard input.

    Raises:
        MachineError: git is missing.
        InvalidError: What was read to its end is not all, since git failed or took too long.
    """
    with tempfile.TemporaryFile() as questions:
        questions.write(data)
        questions.seek(0)
        with start_git(_command(root, arguments, ()), questions, root) as process:
            alarm = threading.Timer(_STREAM_S, process.kill)
            alarm.start()
            try:
                assert process.stdout is not None  # noqa: S101 - asked for with PIPE
                yield process.stdout
                ended = not process.stdout.read(1)
                if ended:
                    process.wait()
            finally:
                alarm.cancel()
                process.kill()
        if ended and process.returncode:
            raise _failure(root, arguments, b"it ended early, or took too long")


def _command(root: Path, arguments: Sequence[str], settings: Sequence[str]) -> list[str]:
    given = [part for setting in ("core.hooksPath=/dev/null", *settings) for part in ("-c", setting)]
    return ["-C", str(root), *given, *arguments]


def _failure(root: Path, arguments: Sequence[str], said: bytes) -> Error:
    command = next((one for one in arguments if not one.startswith("-")), "")
    what, where, text = f"git {command} failed: {last_line(said)}", str(root), said.decode(errors="replace")
    if _FULL.search(text):
        return MachineError("the disk is full", where=where, mend=f"make room, then run again ({what})")
    if _DENIED.search(text):
        return DeniedError(what, where=where, mend="let this process read and write here, or run it as its owner")
    if command in _FAR:
        return TransportError(what, where=where, mend="check the network and `git remote get-url origin`")
    return InvalidError(what, where=where, mend="run `git fsck`, or fetch again")


def tree_files(root: Path, revision: str, *folders: str) -> dict[str, Entry]:
    """Every file of a commit or tree that no request made, by path; those below some folders, or all."""
    return _entries(git(root, "ls-tree", "-r", "-z", revision, "--", *folders))


def tree_of(root: Path, commit: str) -> str:
    """Id of the tree of a commit."""
    return git(root, "rev-parse", "--verify", f"{commit}^{{tree}}").decode().strip()


def merge_base(root: Path, one: str, other: str) -> str:
    """Commit where two parted; empty where they have nothing in common."""
    return (git_or_none(root, "merge-base", one, other) or b"").decode().strip()


def entries_at(root: Path, commit: str, paths: Sequence[str]) -> dict[str, Entry]:
    """What stands at some paths of a commit, those left out where there is nothing.

    Args:
        root: Root of the repository.
        commit: Id of a commit.
        paths: Plain paths, without a line break.
    """
    if not paths:
        return {}
    questions = "".join(f"{commit}:{path}\n" for path in paths).encode("utf-8", "surrogateescape")
    out = git(root, "cat-file", "--batch-check=%(objecttype) %(objectname)", data=questions)
    answers = (line.split() for line in out.splitlines())
    modes = {b"blob": FILE, b"tree": "040000", b"commit": "160000"}
    return {
        path: Entry(mode=modes[answer[0]], oid=answer[1].decode())
        for path, answer in zip(paths, answers, strict=True)
        if answer[0] in modes and answer[-1] != b"missing"
    }


def patched(root: Path, tree: str, changes: Mapping[str, str | None]) -> str:
    """A tree with some files put in or taken out; only the folders that they lie in are read.

    Args:
        root: Root of the repository that the new tree is written to.
        tree: Id of a tree; empty for one with nothing in it.
        changes: Blob by path, ``None`` for a file that goes.

    Returns:
        Id of the new tree; empty where nothing is left in it.
    """
    entries = _entries(git(root, "ls-tree", "-z", tree)) if tree else {}
    below: dict[str, dict[str, str | None]] = {}
    for path, oid in changes.items():
        name, _, rest = path.partition("/")
        if rest:
            below.setdefault(name, {})[rest] = oid
        elif oid is None:
            entries.pop(name, None)
        else:
            entries[name] = Entry(mode=FILE, oid=oid)
    for name, inner in below.items():
        old = entries.get(name)
        made = patched(root, old.oid if old is not None and old.mode == FOLDER else "", inner)
        if made:
            entries[name] = Entry(mode=FOLDER, oid=made)
        else:
            entries.pop(name, None)
    if not entries:
        return ""
    rows = (f"{one.mode} {_KINDS.get(one.mode, 'blob')} {one.oid}\t{name}\0" for name, one in entries.items())
    return git(root, "mktree", "-z", "--missing", data=os.fsencode("".join(rows))).decode().strip()


def commit_alike(root: Path, tree: str, parents: Sequence[str], message: str) -> str:
    """Write a commit whose id follows from its parts, dated as its first parent; its id. No branch moves."""
    when = git(root, "log", "--max-count=1", "--format=%ct", "--end-of-options", parents[0]).decode().strip()
    name, address = _RUNNER
    who = f"{name} <{address}> {when} +0000"
    lines = [f"tree {tree}", *(f"parent {one}" for one in parents), f"author {who}", f"committer {who}", "", message]
    data = "\n".join(lines).encode()
    return git(root, "hash-object", "-t", "commit", "-w", "--stdin", data=data).decode().strip()


def commit_tree(root: Path, tree: str, parents: Iterable[str], message: str, identity: tuple[str, str]) -> str:
    """Write a commit, signed where git is set up to sign commits; its id. No branch moves."""
    name, address = identity
    before = [part for parent in parents for part in ("-p", parent)]
    signs = git_or_none(root, "config", "--type=bool", "--get", "commit.gpgSign") == b"true\n"
    settings = (f"user.name={name}", f"user.email={address}")
    options = ("-S",) if signs else ()
    out = git(root, "commit-tree", *options, *before, tree, data=message.encode(), settings=settings)
    return out.decode().strip()


def keep(root: Path, data: bytes) -> str:
    """Write a blob as it is, whatever filters git is set up with; its id."""
    return git(root, "hash-object", "-w", "--stdin", data=data).decode().strip()


def _entries(out: bytes) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for row in out.split(b"\0"):
        facts, _, name = row.partition(b"\t")
        if name:
            mode, _, oid = facts.decode().split()
            found[os.fsdecode(name)] = Entry(mode=mode, oid=oid)
    return found


def objects_of(root: Path) -> Path:
    """Where a repository keeps its objects."""
    path = Path(os.fsdecode(git(root, "rev-parse", "--git-path", "objects").rstrip(b"\n")))
    return path if path.is_absolute() else (root / path).resolve()


def identity_of(root: Path) -> tuple[str, str]:
    """Who the runner's git says that it is."""
    done = run_git(_command(root, ("var", "GIT_COMMITTER_IDENT"), ()), where=str(root), root=root)
    found = _IDENTITY.fullmatch(done.stdout) if done.returncode == 0 else None
    return (found[1].decode(errors="replace"), found[2].decode(errors="replace")) if found else _RUNNER
