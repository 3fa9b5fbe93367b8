"""Makes a team's repository: git, DVC, the static pipelines, ``params.yaml``; what was there is at most added to."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from builder.kinds import KINDS
from builder.pipeline import BASES_PIPELINE, ROOT_PIPELINE
from registry.errors import ConflictError, MachineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from registry.digest import Digest

__all__ = ["init"]

_GITIGNORE = """\
# Bytes are kept by DVC; git keeps manifests, pipelines, locks and records.
/models/*/artifacts/
# `?*`, since DVC takes `/bases/*` for the folder itself, and then sees no pipeline in it.
/bases/?*
!/bases/dvc.yaml
!/bases/dvc.lock
!/bases/records/
/.varietal/
"""

_DVCIGNORE = """\
# Work folders hold nothing of DVC's, and it would walk them at every command.
/.varietal/
"""

_MODELS_README = """\
One folder a variant, with its manifest `model.yaml`. After an edit: `varietal lint`, `varietal compile`, `dvc repro`.
"""

_DATA_README = """\
Data sets as JSON lines; large ones by `dvc add`.
"""


def init(root: Path, bases: Mapping[str, tuple[str, Digest]]) -> tuple[str, ...]:
    """Lay out a repository.

    Args:
        root: Folder of the repository; made if it is not there. It may be a git repository, and have DVC, already; what
            git and DVC are to ignore is then added to what they ignore.
        bases: Path from the root, and digest, of each base by name.

    Returns:
        Paths that were written.

    Raises:
        ConflictError: A file that would be written is there, one where the folder should be, or a git repository around
            the folder; nothing was written.
        MachineError: git or DVC is missing or failed.
    """
    files = {
        "params.yaml": _params(bases),
        "dvc.yaml": ROOT_PIPELINE,
        "bases/dvc.yaml": BASES_PIPELINE,
        "models/README.md": _MODELS_README,
        "data/README.md": _DATA_README,
    }
    ignored = {".gitignore": _GITIGNORE, ".dvcignore": _DVCIGNORE}
    _check(root, files, ignored)
    root.mkdir(parents=True, exist_ok=True)
    if not (root / ".git").exists():
        _call(root, "git", "init", "--quiet", "--initial-branch=main")
    if not (root / ".dvc").exists():
        _dvc(root, "init", "--quiet")
        _dvc(root, "config", "core.analytics", "false")
        _dvc(root, "config", "cache.type", "reflink,hardlink,copy")
    for path, text in files.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    added = [path for path, text in ignored.items() if _add(root / path, text.encode())]
    return (*files, *added)


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


def _add(path: Path, lines: bytes) -> bool:
    """Put lines at the end of a file, unless it has them; whether that was needed."""
    found = path.read_bytes() if path.exists() else b""
    if lines in found:
        return False
    gap = b"" if not found else b"\n" if found.endswith(b"\n") else b"\n\n"
    path.write_bytes(found + gap + lines)
    return True


def _params(bases: Mapping[str, tuple[str, Digest]]) -> str:
    recipes = "".join(f"  {name}: {kind.recipe}\n" for name, kind in KINDS.items())
    entries = "".join(f'\n  {name}:\n    path: {path}\n    sha256: "{pin.hex}"' for name, (path, pin) in bases.items())
    return (
        "# Base models, pinned: {path, sha256} or {hub, revision}; `varietal pin` prints an entry.\n"
        f"bases:{entries or ' {}'}\n"
        "# Revision of each kind's meaning; raising one rebuilds the stages of that kind.\n"
        f"recipes:\n{recipes}"
        "# Settings for every stage of a kind, such as `sft: {train: {batch: 16}}`; a manifest may override them.\n"
        "defaults: {}\n"
    )


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
