"""Makes a team's repository: git, DVC, the static pipelines, ``params.yaml``, and nothing that was there is touched."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from builder.kinds import KINDS
from builder.pipeline import BASES_PIPELINE, ROOT_PIPELINE
from registry.errors import ConflictError, MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping
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

_MODELS_README = """\
One folder a variant, with its manifest `model.yaml`. After an edit: `varietal lint`, `varietal compile`, `dvc repro`.
"""

_DATA_README = """\
Data sets as JSON lines; large ones by `dvc add`.
"""


def init(root: Path, bases: Mapping[str, tuple[str, Digest]]) -> tuple[str, ...]:
    """Lay out a repository.

    Args:
        root: Folder of the repository; made if it is not there. It may be a git repository, and have DVC, already.
        bases: Path from the root, and digest, of each base by name.

    Returns:
        Paths that were written.

    Raises:
        ConflictError: A file that would be written is there, or one where the folder should be; nothing was written.
        MachineError: git or DVC is missing or failed.
    """
    files = {
        "params.yaml": _params(bases),
        "dvc.yaml": ROOT_PIPELINE,
        "bases/dvc.yaml": BASES_PIPELINE,
        ".gitignore": _GITIGNORE,
        "models/README.md": _MODELS_README,
        "data/README.md": _DATA_README,
    }
    if root.exists() and not root.is_dir():
        raise ConflictError("a file is there already", where=str(root), mend="name a folder")
    taken = [path for path in files if (root / path).exists()]
    if taken:
        raise ConflictError(
            f"{', '.join(taken)}: there already",
            where=str(root),
            mend="take an empty folder, or remove them; nothing was written",
        )
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
    return tuple(files)


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
