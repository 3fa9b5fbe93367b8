"""Git, read and written by the ``git`` command: commits, tags, and blobs at a revision. No other file runs git.

A revision that a person typed goes through :meth:`Repository.resolve`; git then gets the commit id. What is typed is
never taken for an option, and nothing in the environment can point git at another repository.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from registry.canonical import MAX_BYTES
from registry.errors import ConflictError, DeniedError, Error, InvalidError, MachineError, NotFoundError
from registry.git_output import (
    MARK,
    MESSAGE_FIELDS,
    TAG_FIELDS,
    Change,
    Commit,
    Tag,
    read_commit,
    read_raw_log,
    read_tag,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Change", "Commit", "Repository", "Tag", "find_root", "last_line", "run_git", "start_git", "without_secrets"]

_TIMEOUT_S = 120.0
_BLOCK_BYTES = 1 << 20
_OBJECT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SAFELY = (
    *("--no-optional-locks", "-c", "core.quotepath=off"),
    *("-c", "core.fsmonitor=false", "-c", "log.showSignature=false"),
)

# Variables of git that say who and how; all others could say which repository, and are dropped.
_KEPT_VARIABLES = re.compile(
    r"GIT_(?:AUTHOR|COMMITTER|SSH|SSL|HTTP|PROXY|CONFIG)(?:_\w+)?|GIT_(?:ASKPASS|EXEC_PATH|ALLOW_PROTOCOL)"
)
_NOT_KEPT = frozenset({"GIT_CONFIG", "GIT_CONFIG_PARAMETERS"})


def find_root(folder: Path) -> Path:
    """The root of the repository that a folder lies in, found without running git.

    Raises:
        NotFoundError: No folder above has a ``.git``.
    """
    start = folder.resolve()
    for candidate in (start, *start.parents):
        if (candidate / ".git").exists():
            return candidate
    raise NotFoundError(
        "this is not a git repository",
        where=str(folder),
        mend="go to a repository, make one with `git init`, or name one with --repo URL",
    )


class Repository:
    """A git repository.

    Attributes:
        root: Root of the work tree, or the folder of a bare repository.
        bare: Whether there is no work tree.
    """

    def __init__(self, root: Path, *, bare: bool = False) -> None:
        """Name a repository; nothing is read yet."""
        self.root = root
        self.bare = bare

    @classmethod
    def open(cls, folder: Path) -> Repository:
        """The repository that a folder lies in.

        Raises:
            NotFoundError: It lies in none.
        """
        return cls(find_root(folder))

    # Commits

    def head(self) -> str:
        """Id of the commit that is checked out.

        Raises:
            NotFoundError: There is no commit yet.
        """
        return self.resolve("HEAD")

    def resolve(self, revision: str) -> str:
        """Id of the commit that a branch, a tag or anything else of git's stands for.

        Raises:
            NotFoundError: There is no such commit.
        """
        done = self._try("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        commit = done.stdout.decode().strip()
        if done.returncode or _OBJECT.fullmatch(commit) is None:
            raise NotFoundError(
                f"there is no commit {revision!r}",
                where=self._where,
                mend="commit first, or fetch: `git fetch --tags`" if revision == "HEAD" else "try `git fetch --tags`",
            )
        return commit

    def branch(self) -> str:
        """Name of the branch that is checked out; empty where none is."""
        done = self._try("symbolic-ref", "--quiet", "--short", "HEAD")
        return done.stdout.decode().strip() if done.returncode == 0 else ""

    def main_branch(self) -> str:
        """Full ref of the main branch: what the origin calls so, else a local ``main`` or ``master``.

        A bare copy has the origin's branches as its own, and the main one checked out.

        Raises:
            NotFoundError: There is none of these.
        """
        done = self._try("symbolic-ref", "--quiet", "HEAD" if self.bare else "refs/remotes/origin/HEAD")
        candidates = [done.stdout.decode().strip()] if done.returncode == 0 else []
        candidates += [f"refs/{place}/{name}" for name in ("main", "master") for place in ("remotes/origin", "heads")]
        for candidate in candidates:
            if self._try("rev-parse", "--verify", "--quiet", "--end-of-options", candidate).returncode == 0:
                return candidate
        raise NotFoundError(
            "no main branch is known here",
            where=self._where,
            mend="name it: `git remote set-head origin --auto`",
        )

    def is_ancestor(self, commit: str, of: str) -> bool:
        """Whether ``of`` is ``commit`` or came after it."""
        done = self._try("merge-base", "--is-ancestor", self.resolve(commit), self.resolve(of))
        if done.returncode > 1:
            raise self._failure(("merge-base",), done)
        return done.returncode == 0

    def changes(self) -> tuple[str, ...]:
        """Paths that differ from the last commit, those not yet known to git among them; none in a bare repository."""
        if self.bare:
            return ()
        out = self._run("status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all")
        return tuple(os.fsdecode(entry[3:]) for entry in out.split(b"\0") if entry)

    def log(self, paths: Iterable[str], revision: str = "HEAD") -> tuple[Commit, ...]:
        """Commits up to a revision that changed one of these paths, newest first.

        Raises:
            NotFoundError: There is no such revision.
        """
        commit = self.resolve(revision)
        out = self._run("log", "--format=%H%x00%ct%x00%s", "--end-of-options", commit, "--", *map(_literal, paths))
        lines = out.decode(errors="replace").split("\n")  # a subject may have what else ends a line in Unicode
        return tuple(map(read_commit, filter(None, lines)))

    # Files at a commit

    def read(self, revision: str, path: str) -> bytes:
        """Bytes of a file at a revision.

        Raises:
            NotFoundError: There is no such revision, or no such file in it.
        """
        commit = revision if _OBJECT.fullmatch(revision) else self.resolve(revision)
        data = next(self.read_blobs([f"{commit}:{PurePosixPath(path)}"]))
        if data is None:
            raise NotFoundError(
                f"there is no {path}", where=f"{self._where} at {revision}", mend="commit it, or name another revision"
            )
        return data

    def read_blobs(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """Bytes of many blobs from one git process, in the given order; ``None`` where there is none up to 64 MiB.

        Args:
            names: Blob ids, or ``<commit id>:<path>``.

        Raises:
            InvalidError: A name has a line break in it.
        """
        return self._read_objects(names, b"blob")

    def read_tag_objects(self, ids: Iterable[str]) -> Iterator[bytes | None]:
        """The same for annotated tags, by their own object ids: the very bytes that were signed, and the signature."""
        return self._read_objects(ids, b"tag")

    def _read_objects(self, names: Iterable[str], kind: bytes) -> Iterator[bytes | None]:
        asked = list(names)
        if bad := [name for name in asked if "\n" in name]:
            raise InvalidError(f"{bad[0]!r} has a line break in it", where=self._where, mend="rename the file")
        lines = "".join(f"{name}\n" for name in asked).encode("utf-8", "surrogateescape")
        with tempfile.TemporaryFile() as questions:
            questions.write(lines)
            questions.seek(0)
            with start_git([*self._place, "cat-file", "--batch"], questions, self.root) as process:
                try:
                    yield from self._answers(process, len(asked), kind)
                finally:
                    process.kill()

    def _answers(self, process: subprocess.Popen[bytes], count: int, kind: bytes) -> Iterator[bytes | None]:
        stream = process.stdout
        assert stream is not None  # noqa: S101 - asked for with PIPE
        for _ in range(count):
            head = stream.readline().split()
            if head[-1:] in ([b"missing"], [b"ambiguous"], [b"submodule"]):
                yield None
                continue
            size_bytes = int(head[2]) if len(head) == 3 else -1  # noqa: PLR2004 - id, type, size
            if size_bytes > MAX_BYTES:
                _skip(stream, size_bytes + 1)
                yield None
                continue
            data = stream.read(size_bytes + 1)
            if not data.endswith(b"\n"):
                raise self._unreadable("git cat-file stopped in the middle")
            yield data[:-1] if head[1] == kind else None

    def tips(self) -> tuple[str, ...]:
        """Object ids of every branch, tag and other ref, and of HEAD; sorted."""
        out = self._run("for-each-ref", "--format=%(objectname)").decode().split()
        head = self._try("rev-parse", "--verify", "--quiet", "HEAD").stdout.decode().split()
        return tuple(sorted({*out, *head}))

    def is_shallow(self) -> str:
        """What history is cut off at; empty where all of it is here."""
        path = Path(os.fsdecode(self._run("rev-parse", "--git-path", "shallow").strip()))
        full = path if path.is_absolute() else self.root / path
        return full.read_text(encoding="ascii") if full.exists() else ""

    def changed_files(self, patterns: Sequence[str], *, seen: Iterable[str] = ()) -> Iterator[Change]:
        """Every state of some files in the whole history, branches that were merged away included.

        Args:
            patterns: Git's glob pathspecs, such as ``models/*/records/*.json``.
            seen: Object ids; history that they reach is left out.

        Yields:
            A change for each commit that gave a file new content; a deletion gives none.

        Raises:
            InvalidError: git cannot read the history.
        """
        questions = "".join(f"^{tip}\n" for tip in seen).encode()
        out = self._run(
            *("log", "--all", "--full-history", "-c", "--raw", "--no-abbrev", "--no-renames", "-z"),
            *(f"--format={MARK}%H", "--ignore-missing", "--stdin"),
            *("--", *(f":(top,glob){pattern}" for pattern in patterns)),
            data=questions,
        )
        yield from read_raw_log(out)

    def reaches(self, tips: Sequence[str]) -> bool:
        """Whether today's refs still lead to all of these objects; not after a branch was deleted or rewritten."""
        names = "".join(f"{tip}\n" for tip in tips).encode()
        if b" missing" in self._run("cat-file", "--batch-check=%(objectname)", data=names):
            return False
        return not self._run("rev-list", "--max-count=1", "--stdin", "--not", "--all", data=names).strip()

    # Tags

    def tags(self, *patterns: str, messages: bool = False) -> tuple[Tag, ...]:
        """Tags, oldest first, in one call of git.

        Args:
            *patterns: Git's globs on names, such as ``support@*``; none for all.
            messages: Whether to read the messages too.
        """
        fields = TAG_FIELDS + (MESSAGE_FIELDS if messages else "")
        wanted = [f"refs/tags/{pattern}" for pattern in patterns] or ["refs/tags"]
        out = self._run("for-each-ref", f"--format={fields}%00{MARK}", "--sort=creatordate", "--", *wanted)
        rows = out.decode(errors="replace").split(f"\0{MARK}\n")
        return tuple(read_tag(row.split("\0")) for row in rows if row)

    def create_tag(self, name: str, commit: str, message: str, *, sign: bool = False) -> None:
        """Make an annotated tag, signed where git is set up to sign tags, and with ``sign`` in any case.

        Raises:
            ConflictError: The tag exists.
            MachineError: git cannot make it, for want of a name, an address or a key.
        """
        if self._try("rev-parse", "--verify", "--quiet", "--end-of-options", f"refs/tags/{name}").returncode == 0:
            raise _tag_exists(name, self._where)
        done = self._try(
            *("tag", "--sign" if sign else "--annotate", "--cleanup=verbatim", "--file=-"),
            *("--end-of-options", name, self.resolve(commit)),
            data=message.encode(),
        )
        if b"already exists" in done.stderr:
            raise _tag_exists(name, self._where)
        if done.returncode:
            raise MachineError(
                f"git could not make the tag {name}: {last_line(done.stderr)}",
                where=self._where,
                mend="set user.name and user.email, and the signing key where tags are signed",
            )

    def remove_tag(self, name: str) -> None:
        """Remove a tag that was made a moment ago and that nobody else has seen."""
        self._run("update-ref", "-d", f"refs/tags/{name}")

    def check_signature(self, name: str) -> bool:
        """Whether git can verify the signature of a tag with the keys that it is set up with."""
        return self._try("verify-tag", "--end-of-options", name).returncode == 0

    # Running git

    def ask(
        self, *arguments: str, data: bytes = b"", timeout_s: float = _TIMEOUT_S
    ) -> subprocess.CompletedProcess[bytes]:
        """Run git here and wait for it, whatever its exit code: for questions that this class has no method for.

        Raises:
            MachineError: git is missing or did not answer in time.
        """
        return run_git([*self._place, *arguments], where=self._where, data=data, timeout_s=timeout_s, root=self.root)

    @property
    def _where(self) -> str:
        return str(self.root)

    @property
    def _place(self) -> tuple[str, ...]:
        return (f"--git-dir={self.root}",) if self.bare else ("-C", str(self.root))

    def _try(self, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = run_git([*self._place, *arguments], where=self._where, data=data, root=self.root)
        if done.returncode == 128 and b"not a git repository" in done.stderr:  # noqa: PLR2004 - git's "fatal"
            raise NotFoundError(
                "this is not a git repository", where=self._where, mend="go to a repository or make one with `git init`"
            )
        if b"dubious ownership" in done.stderr:
            raise DeniedError(
                "git does not trust this repository: another user owns it",
                where=self._where,
                mend=f"if you trust it: `git config --global --add safe.directory {self.root}`",
            )
        return done

    def _run(self, *arguments: str, data: bytes = b"") -> bytes:
        done = self._try(*arguments, data=data)
        if done.returncode:
            raise self._failure(arguments, done)
        return done.stdout

    def _failure(self, arguments: Sequence[str], done: subprocess.CompletedProcess[bytes]) -> Error:
        return self._unreadable(f"git {arguments[0]} failed: {last_line(done.stderr)}")

    def _unreadable(self, what: str) -> InvalidError:
        return InvalidError(what, where=self._where, mend="run `git fsck`, or clone the repository again")


def run_git(
    arguments: Sequence[str],
    *,
    where: str,
    data: bytes = b"",
    timeout_s: float = _TIMEOUT_S,
    root: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run git and wait for it, whatever its exit code.

    Args:
        arguments: What follows ``git`` on the command line.
        where: Named in the errors.
        data: Its standard input.
        timeout_s: Seconds after which it is killed.
        root: Root of the repository; git looks for none above it.

    Raises:
        MachineError: git is missing or did not answer in time.
    """
    try:
        return subprocess.run(
            ["git", *_SAFELY, *arguments],
            input=data,
            capture_output=True,
            check=False,
            timeout=timeout_s,
            env=_environment(root),
        )
    except OSError as error:
        raise _no_git(where) from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"git did not answer within {timeout_s:.0f} s", where=where, mend="look at the disk and the network"
        ) from error


def start_git(arguments: Sequence[str], questions: IO[bytes], root: Path) -> subprocess.Popen[bytes]:
    """Start git, reading from a file, its answers to be read from a pipe.

    Raises:
        MachineError: git is missing.
    """
    try:
        return subprocess.Popen(
            ["git", *_SAFELY, *arguments],
            stdin=questions,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(root),
        )
    except OSError as error:
        raise _no_git(str(root)) from error


def _skip(stream: IO[bytes], size_bytes: int) -> None:
    """Read on without keeping anything."""
    while size_bytes > 0:
        size_bytes -= len(stream.read(min(size_bytes, _BLOCK_BYTES))) or size_bytes


def _no_git(where: str) -> MachineError:
    return MachineError("git is not installed", where=where, mend="install git and put it on PATH")


def _environment(root: Path | None) -> dict[str, str]:
    """This process's environment, less what could point git elsewhere; English, silent, the objects as they are."""
    ceiling = {"GIT_CEILING_DIRECTORIES": str(root.resolve().parent)} if root is not None else {}
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or (_KEPT_VARIABLES.fullmatch(name) and name not in _NOT_KEPT)
    }
    return kept | ceiling | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_FLUSH": "0"}


def _literal(path: str) -> str:
    return f":(top,literal){path}"


def last_line(text: bytes) -> str:
    """What git said last, fit to be shown."""
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return without_secrets(lines[-1].strip()) if lines else "no reason given"


def without_secrets(text: str) -> str:
    """A text with user name and password taken out of its URLs."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def _tag_exists(name: str, where: str) -> ConflictError:
    return ConflictError(
        f"the tag {name} exists", where=where, mend="a release never moves: take the next version, or fetch first"
    )
