"""A git repository of our own beside another: it borrows the other's objects, but no settings, hooks or filters.

What a request holds is only ever read as git's objects. No file of it is checked out by the other repository, so
nothing that the request names (a filter, a submodule, a link) is followed, whatever git is set up to do there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import Error, InvalidError
from registry.history import last_line, run_git

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from registry.history import Repository

__all__ = [
    "FILE",
    "FOLDER",
    "Entry",
    "Scratch",
    "commit_tree",
    "entries_at",
    "git",
    "git_or_none",
    "identity_of",
    "keep",
    "patched",
]

FILE = "100644"
"""Git's mode of a plain file; whether it may be run is not taken over."""

FOLDER = "040000"
"""Git's mode of a tree."""

_KINDS = {FOLDER: "tree", "160000": "commit"}
_ATTRIBUTES = "* -filter -text -eol -ident -working-tree-encoding\n"
_CONFIG = """[core]
	autocrlf = false
	fileMode = false
	hooksPath = /dev/null
	protectHFS = true
	protectNTFS = true
	symlinks = false
[commit]
	gpgSign = false
[gc]
	auto = 0
[submodule]
	recurse = false
"""
_IDENTITY = re.compile(rb"(.*) <(.*)> \d+ [-+]\d{4}\n")
_RUNNER = ("varietal", "varietal@localhost")  # where git was told of nobody


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
        InvalidError: It failed.
    """
    done = run_git(_command(root, arguments, settings), where=str(root), data=data, root=root)
    if done.returncode:
        raise _failure(root, arguments, done.stderr)
    return done.stdout


def git_or_none(root: Path, *arguments: str, data: bytes = b"") -> bytes | None:
    """The same; ``None`` where the command says no, by exit code 1.

    Raises:
        InvalidError: It failed otherwise.
    """
    done = run_git(_command(root, arguments, ()), where=str(root), data=data, root=root)
    if done.returncode > 1:
        raise _failure(root, arguments, done.stderr)
    return done.stdout if done.returncode == 0 else None


def _command(root: Path, arguments: Sequence[str], settings: Sequence[str]) -> list[str]:
    given = [part for setting in ("core.hooksPath=/dev/null", *settings) for part in ("-c", setting)]
    return ["-C", str(root), *given, *arguments]


def _failure(root: Path, arguments: Sequence[str], said: bytes) -> Error:
    return InvalidError(
        f"git {arguments[0]} failed: {last_line(said)}", where=str(root), mend="run `git fsck`, or fetch again"
    )


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
    entries = _listed(root, tree) if tree else {}
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


def _listed(root: Path, tree: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for row in git(root, "ls-tree", "-z", tree).split(b"\0"):
        facts, _, name = row.partition(b"\t")
        if name:
            mode, _, oid = facts.decode().split()
            found[os.fsdecode(name)] = Entry(mode=mode, oid=oid)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Scratch:
    """The repository of our own.

    Attributes:
        folder: Root of its work tree.
        identity: Name and address that its commits are by.
    """

    folder: Path
    identity: tuple[str, str]

    @classmethod
    def make(cls, folder: Path, lender: Repository) -> Scratch:
        """Make it, or take up the one that is there.

        Args:
            folder: Its work tree.
            lender: Whose objects it borrows; that is all that the two share.

        Raises:
            InvalidError: git cannot make it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        objects = _path_of(lender.root, "objects")
        if not (folder / ".git" / "HEAD").exists():
            format_ = git(lender.root, "rev-parse", "--show-object-format").decode().strip()
            git(folder, "init", "--quiet", "--template=", f"--object-format={format_}", "--initial-branch=main")
            with (folder / ".git" / "config").open("a", encoding="ascii") as stream:
                stream.write(_CONFIG)  # what is written last holds
        info = folder / ".git" / "info"
        info.mkdir(exist_ok=True)
        (info / "attributes").write_text(_ATTRIBUTES, encoding="ascii")
        (info / "exclude").write_text("/.varietal/\n/.dvc/config.local\n", encoding="ascii")
        borrowed = folder / ".git" / "objects" / "info" / "alternates"
        borrowed.parent.mkdir(exist_ok=True)
        borrowed.write_bytes(os.fsencode(f"{objects}\n"))
        if cut_off := lender.is_shallow():
            (folder / ".git" / "shallow").write_text(cut_off, encoding="ascii")
        return cls(folder=folder, identity=identity_of(lender.root))

    def read(self, tree: str, *, check_out: bool = False) -> None:
        """Fill the index with a tree, and with ``check_out`` the work tree too, which loses what is gone."""
        git(self.folder, "read-tree", "--reset", *(("-u",) if check_out else ()), tree)

    def paths(self, *folders: str) -> tuple[str, ...]:
        """Paths in the index, below some folders or all of them."""
        out = git(self.folder, "ls-files", "-z", "--", *(f":(top,literal){folder}" for folder in folders))
        return tuple(os.fsdecode(path) for path in out.split(b"\0") if path)

    def change(self, entries: Mapping[str, str | None]) -> None:
        """Put blobs into the index as plain files, by path; ``None`` removes one."""
        removed = "".join(f"0 {'0' * 40}\t{path}\0" for path, oid in entries.items() if oid is None)
        added = "".join(f"{FILE} {oid}\t{path}\0" for path, oid in entries.items() if oid is not None)
        git(self.folder, "update-index", "-z", "--index-info", data=os.fsencode(removed + added))

    def keep(self, data: bytes) -> str:
        """Write a blob; its id."""
        return keep(self.folder, data)

    def tree(self) -> str:
        """Write the index as a tree; its id."""
        return git(self.folder, "write-tree").decode().strip()

    def commit(self, tree: str, parents: Iterable[str], message: str) -> str:
        """Write a commit; its id."""
        return commit_tree(self.folder, tree, parents, message, self.identity)

    def check_out(self, commit: str) -> None:
        """Make a commit the one that is checked out, on no branch."""
        self.read(commit, check_out=True)
        git(self.folder, "update-ref", "--no-deref", "HEAD", commit)


def _path_of(root: Path, name: str) -> Path:
    path = Path(os.fsdecode(git(root, "rev-parse", "--git-path", name).rstrip(b"\n")))
    return path if path.is_absolute() else (root / path).resolve()


def identity_of(root: Path) -> tuple[str, str]:
    """Who the runner's git says that it is."""
    done = run_git(_command(root, ("var", "GIT_COMMITTER_IDENT"), ()), where=str(root), root=root)
    found = _IDENTITY.fullmatch(done.stdout) if done.returncode == 0 else None
    return (found[1].decode(errors="replace"), found[2].decode(errors="replace")) if found else _RUNNER
