"""Which paths of a request count, and which names are refused. Pure.

A name that DVC or git gives a meaning to is never taken, wherever it stands: a ``dvc.yaml`` below ``data/`` would be
run by the next ``dvc repro``.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Literal, TypeAlias

from builder.names import VARIANT_NAME
from builder.reward_settings import REWARD_FILE, REWARDS
from builder.shapes import Reading
from registry.artifact import check_path
from registry.errors import InvalidError
from registry.record import BASES, manifest_file

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DATA", "MODELS", "PROJECT", "REWARDS", "Part", "collisions", "home_of", "part_of", "problem_of", "shown"]

DATA, MODELS = "data", "models"
PROJECT = str(manifest_file(BASES))

Part: TypeAlias = Literal["manifest", "project", "data", "pointer", "code", "generated", "left"]
"""What a path is to a build: taken (the first five; code only once it is approved), made by the tool and its runners,
or none of its business."""

_NAME = "[a-z0-9][a-z0-9-]*"
_GENERATED = re.compile(
    rf"dvc\.yaml|(?P<home>{BASES}|{MODELS}/{_NAME})/(?:dvc\.(?P<kind>yaml|lock)|records/{_NAME}\.(?:json|tsv))"
)
_DVC_NAMES = frozenset({"dvc.yaml", "dvc.lock"})
_POINTER = ".dvc"
_GIT_NAME = re.compile(r"(?:\.git|git~\d+)[. ]*", re.IGNORECASE)


def part_of(path: str) -> Part:
    """What a path is to a build."""
    parts = path.split("/")
    if path == PROJECT:
        return "project"
    if _GENERATED.fullmatch(path):
        return "generated"
    if parts[0] == MODELS and len(parts) == 3 and parts[2] == "model.yaml":  # noqa: PLR2004 - models/<variant>/<file>
        return "manifest"
    if re.fullmatch(REWARD_FILE, path):
        return "code"
    if parts[0] == DATA and len(parts) > 1 and not _has_meaning(parts[1:]):
        return "pointer" if parts[-1].endswith(_POINTER) else "data"
    return "left"


def home_of(path: str) -> str:
    """Folder of the variant, or of the bases, that a lock or a record belongs to; empty for every other path."""
    found = _GENERATED.fullmatch(path)
    return (found["home"] or "") if found is not None and found["kind"] != "yaml" else ""


def problem_of(path: str) -> str:
    """Why a path that would be taken is refused; empty where it is not."""
    parts = path.split("/")
    if any(_GIT_NAME.fullmatch(part) for part in parts):
        return "a name that git keeps for itself"
    try:
        check_path(path, where=path)
    except InvalidError:
        return "no plain path: it has a character or a part that no file here may have"
    if part_of(path) == "manifest":
        reading = Reading(file=path)
        VARIANT_NAME.read(parts[1], (), reading)
        return reading.faults[0].problem if reading.faults else ""
    return ""


def collisions(kept: Iterable[str], added: Iterable[str]) -> dict[str, str]:
    """Added paths that cannot stand beside the others on every system, each with the path that it meets.

    Two paths meet where they differ in case or in the form of a letter only, and where one is a folder of the other.

    Args:
        kept: Paths that are there; what is wrong among them alone is not said.
        added: Paths that come.
    """
    new = sorted(set(added))
    files = {_folded(path): path for path in sorted(set(kept) - set(new))}
    folders = {folder: path for path in files.values() for folder in _folders(path)}
    found: dict[str, str] = {}
    for path in new:
        key = _folded(path)
        other = files.get(key) or folders.get(key) or next((files[one] for one in _folders(path) if one in files), "")
        if other:
            found[path] = other
        files.setdefault(key, path)
        for folder in _folders(path):
            folders.setdefault(folder, path)
    return found


def shown(path: str) -> str:
    """A path fit for a terminal: a name with odd characters is spelt out, so that it cannot move the cursor."""
    return path if path.isprintable() else ascii(path)


def _has_meaning(parts: list[str]) -> bool:
    """Hidden names, and those of DVC: ``.gitignore``, ``.dvc/config``, ``dvc.yaml``, and what a pointer would make."""
    hidden = any(part.startswith(".") for part in parts)
    plain = [part.casefold() for part in (*parts[:-1], parts[-1].removesuffix(_POINTER))]
    return hidden or any(part in _DVC_NAMES or part.endswith(_POINTER) for part in plain)


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", path).casefold())


def _folders(path: str) -> list[str]:
    parts = _folded(path).split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]
