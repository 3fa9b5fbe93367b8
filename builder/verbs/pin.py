"""``varietal pin``: the entry that holds a model or an adapter fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.terminal import Json, answer, repository_root

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("pin")(_pin)


def _pin(
    source: Annotated[str, typer.Argument(help="A folder of this repository, or hub:organisation/name[@revision].")],
    *,
    json: Json = False,
) -> None:
    """Print the entry that pins a model or an adapter, for params.yaml or a manifest."""
    from builder.pin import pin

    entry = pin(repository_root(), source, start=Path.cwd())
    answer(json, dict(entry), [f'{key}: "{value}"' if key != "path" else f"{key}: {value}" for key, value in entry])
