"""The pipeline files of a work tree, and records of bases that are gone: what is stale, and putting it right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.graph import build_graph
from builder.load import load
from builder.pipeline import HEAD, pipelines
from builder.work import write_file
from registry.record import BASES, git_record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.load import Workspace

__all__ = ["Changes", "is_written", "stale_files", "write_pipelines"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """Paths from the root, sorted."""

    written: tuple[str, ...]
    removed: tuple[str, ...]


def stale_files(root: Path) -> tuple[str, ...]:
    """Pipeline files that are not what the manifests say, those of no variant and the records of no base among them.

    Raises:
        InvalidError: A manifest is at fault.
    """
    workspace = load(root)
    changes = _changes(root, workspace, pipelines(build_graph(workspace)))
    return tuple(sorted({*changes.written, *changes.removed}))


def write_pipelines(root: Path) -> Changes:
    """Write what is stale, and remove what nothing declares any more; a pipeline that was written by hand stays.

    The pipeline of a variant goes with its manifest, and git's copy of a base's record with its entry in params.yaml,
    since the static pipeline of the bases runs for those alone that are there.

    Raises:
        InvalidError: A manifest is at fault; nothing was written.
    """
    workspace = load(root)
    texts = pipelines(build_graph(workspace))
    changes = _changes(root, workspace, texts)
    for path in changes.written:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        write_file(root / path, texts[path].encode())
    for path in changes.removed:
        (root / path).unlink()
    return changes


def is_written(path: Path, text: str) -> bool:
    """Whether a pipeline file is there, and has this text."""
    return path.is_file() and path.read_bytes() == text.encode()


def _changes(root: Path, workspace: Workspace, texts: Mapping[str, str]) -> Changes:
    pipelines_left = {path for path in root.glob("models/*/dvc.yaml") if _is_ours(path)}
    records = (root / git_record(BASES, "any")).parent.glob("*.json")
    records_left = {path for path in records if path.stem not in workspace.project.bases}
    left = {str(path.relative_to(root)) for path in pipelines_left | records_left}
    return Changes(
        written=tuple(sorted(path for path, text in texts.items() if not is_written(root / path, text))),
        removed=tuple(sorted(left - set(texts))),
    )


def _is_ours(path: Path) -> bool:
    return path.is_file() and path.read_bytes().startswith(HEAD.encode())
