"""The pipeline files of a work tree: which are stale, and writing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.graph import build_graph
from builder.load import load
from builder.pipeline import HEAD, pipelines
from builder.work import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["is_written", "stale_pipelines", "write_pipelines"]


def stale_pipelines(root: Path) -> tuple[str, ...]:
    """Pipeline files that are not what the manifests say, those of no variant among them.

    Raises:
        InvalidError: A manifest is at fault.
    """
    return _stale(root, pipelines(build_graph(load(root))))


def write_pipelines(root: Path) -> tuple[str, ...]:
    """Write what is stale; the pipeline of a variant that is gone is removed, one that was written by hand stays.

    Returns:
        The paths written or removed.

    Raises:
        InvalidError: A manifest is at fault; nothing was written.
    """
    texts = pipelines(build_graph(load(root)))
    stale = _stale(root, texts)
    for path in stale:
        if path in texts:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            write_file(root / path, texts[path].encode())
        else:
            (root / path).unlink()
    return stale


def is_written(path: Path, text: str) -> bool:
    """Whether a pipeline file is there, and has this text."""
    return path.is_file() and path.read_bytes() == text.encode()


def _stale(root: Path, texts: Mapping[str, str]) -> tuple[str, ...]:
    left_over = {str(path.relative_to(root)) for path in root.glob("models/*/dvc.yaml") if _is_ours(path)} - set(texts)
    return tuple(sorted({path for path, text in texts.items() if not is_written(root / path, text)} | left_over))


def _is_ours(path: Path) -> bool:
    return path.is_file() and path.read_bytes().startswith(HEAD.encode())
