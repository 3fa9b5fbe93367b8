"""``varietal matrix``: what goes with what in a training."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from builder.terminal import Json, answer
from registry.errors import InvalidError

if TYPE_CHECKING:
    from registry.canonical import JSON

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("matrix")(_matrix)


def _matrix(
    *,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables in Markdown.")] = False,
    json: Json = False,
) -> None:
    """Say which kinds, adapters, bases in few bits and processes go together, and why others do not."""
    from builder.matrix import AXES, pairs
    from builder.matrix_text import matrix_lines, matrix_markdown

    if markdown and json:
        raise InvalidError("--markdown together with --json", where="varietal matrix", mend="keep one of them")
    if markdown:
        sys.stdout.write(matrix_markdown())
        return
    axes: dict[str, JSON] = {axis: [*values] for axis, values in AXES.items()}
    answer(json, {"axes": axes, "pairs": [pair.to_json() for pair in pairs()]}, () if json else matrix_lines())
