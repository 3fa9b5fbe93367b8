"""``varietal diff``: what changed between two artifacts, measured."""

from __future__ import annotations

import os
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from builder.terminal import Json, answer, repository_root, say
from registry.terminal import open_store

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from registry.artifact import Artifact
    from registry.canonical import JSON

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("diff")(_diff)


def _diff(
    before: Annotated[str, typer.Argument(help="A ref, or a folder.")],
    after: Annotated[str, typer.Argument(help="Another ref, or a folder.")],
    *,
    svg: Annotated[Path | None, typer.Option(help="File to draw a heat map into, layers by components.")] = None,
    json: Json = False,
) -> None:
    """Measure what changed between two artifacts: which components and layers, how far, in how many directions."""
    from builder.call import enough_memory
    from builder.inspect import open_artifact
    from builder.weights.diff import diff, draw, tabulate

    def opened(ref: str) -> AbstractContextManager[tuple[Path, Artifact]]:
        return open_artifact(repository_root, ref, open_store, say)

    with opened(before) as (old_folder, old), opened(after) as (new_folder, new), enough_memory("varietal diff"):
        rows = diff(old_folder, old, new_folder, new, threads=len(os.sched_getaffinity(0)))
    if svg is not None:
        svg.write_text(draw(rows, f"{before} -> {after}"), encoding="utf-8")
        say(f"wrote {svg}")
    value: JSON = {"before": str(old.digest), "after": str(new.digest), "rows": [row.to_json() for row in rows]}
    answer(json, value, tabulate(rows))
