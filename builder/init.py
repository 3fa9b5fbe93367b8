"""Makes a team's repository: git, DVC, the files of the layout; what was there is at most added to."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.start.layout import layout
from builder.start.storage import REMOTE, default_remote, remote_url, settings_text
from registry.errors import ConflictError, MachineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.start.workflows import Host
    from registry.canonical import JSON
    from registry.digest import Digest

__all__ = ["Begun", "init"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """A repository that was laid out.

    Attributes:
        written: Paths that were written.
        kept: Paths that were there, and are left as they were.
        remote: URL of the default DVC remote, as DVC's settings have it; empty where those were left alone.
    """

    written: tuple[str, ...]
    kept: tuple[str, ...]
    remote: str

    def to_json(self) -> dict[str, JSON]:
        """The shape of ``varietal init --json``."""
        return {"written": [*self.written], "kept": [*self.kept], "remote": self.remote or None}


def init(
    root: Path,
    bases: Mapping[str, tuple[str, Digest]],
    *,
    remote: str = "",
    hosts: Iterable[Host] = ("github",),
    tool: str = "",
) -> Begun:
    """Lay out a repository; nothing is committed.

    Args:
        root: Folder of the repository; made if it is not there. It may be a git repository, and have DVC, already; what
            git and DVC are to ignore is then added to what they ignore.
        bases: Path from the root, and digest, of each base by name.
        remote: URL or path of the default DVC remote; empty for a folder beside the repository.
        hosts: Whose workflows to write.
        tool: Where workflows install the tool from, pinned by sha256 in pip's form; empty leaves it to be written.

    Raises:
        ConflictError: A file that would be written is there, one where the folder should be, a git repository around
            the folder, or another remote than was asked for; nothing was written.
        InvalidError: The remote's URL cannot be kept in git, or the tool is not pinned.
        MachineError: git or DVC is missing or failed.
    """
    files = layout(bases, hosts, name=root.resolve().name, tool=tool)
    has_dvc = (root / ".dvc").exists()
    _check(root, files.needed, files.ignored)
    if has_dvc and remote:
        _check_remote(root)
    url = remote_url(root, remote, Path.cwd()) if not has_dvc or remote else ""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / ".git").exists():
        _call(root, "git", "init", "--quiet", "--initial-branch=main")
    if not has_dvc:
        _dvc(root, "init", "--quiet")
        (root / ".dvc/config").write_text(settings_text(url), encoding="utf-8")
    elif remote:
        _dvc(root, "remote", "add", "--quiet", "--default", REMOTE, url if "://" in url else str(root / ".dvc" / url))
        _dvc(root, "remote", "modify", "--quiet", REMOTE, "verify", "true")
    kept = tuple(path for path in files.offered if (root / path).exists() or (root / path).is_symlink())
    written = {**files.needed, **{path: text for path, text in files.offered.items() if path not in kept}}
    for path, text in written.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    added = [path for path, text in files.ignored.items() if _add(root / path, text.encode())]
    return Begun(written=(*written, *added), kept=kept, remote=url)


def _check(root: Path, files: Iterable[str], ignored: Iterable[str]) -> None:
    """Refuse, before anything is written, what would be lost or hidden."""
    if root.exists() and not root.is_dir():
        raise ConflictError("a file is there already", where=str(root), mend="name a folder")
    outer = next((folder for folder in root.resolve().parents if (folder / ".git").exists()), None)
    if outer is not None and not (root / ".git").exists():
        raise ConflictError(
            f"the folder is within the git repository {outer}",
            where=str(root),
            mend="run `varietal init` at its root, or take a folder outside of it; nothing was written",
        )
    taken = [path for path in files if (root / path).exists()]
    taken += [path for path in ignored if (root / path).is_symlink() or (root / path).is_dir()]
    if taken:
        raise ConflictError(
            f"{', '.join(taken)}: there already",
            where=str(root),
            mend="take an empty folder, or remove them; nothing was written",
        )


def _check_remote(root: Path) -> None:
    """Where DVC has a default remote, another one is not put in its place unasked."""
    if name := default_remote(root):
        raise ConflictError(
            f"DVC has the default remote {name!r} already",
            where=str(root / ".dvc/config"),
            mend="leave --remote out, or change it with `dvc remote modify`; nothing was written",
        )


def _add(path: Path, lines: bytes) -> bool:
    """Put lines at the end of a file, unless it has them; whether that was needed."""
    found = path.read_bytes() if path.exists() else b""
    if lines in found:
        return False
    gap = b"" if not found else b"\n" if found.endswith(b"\n") else b"\n\n"
    path.write_bytes(found + gap + lines)
    return True


def _dvc(root: Path, *arguments: str) -> None:
    _call(root, sys.executable, "-m", "dvc", *arguments)


def _call(root: Path, *command: str) -> None:
    try:
        subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise MachineError(f"{command[0]} is not installed", where=str(root), mend="install it") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).strip().splitlines()
        raise MachineError(
            f"`{' '.join(command[-3:])}` failed: {reason[-1] if reason else error.returncode}",
            where=str(root),
            mend="mend what it says; DVC comes with pip install 'varietal[build]'",
        ) from error
