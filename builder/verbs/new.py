"""``varietal new``: a variant's first manifest."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from builder.terminal import Json, answer, repository_root, say
from registry.errors import InvalidError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("new")(_new)


def _new(
    variant: Annotated[str, typer.Argument(help="Name of the variant: its folder under models/.")],
    *,
    base: Annotated[str, typer.Option(help="What it starts from: a name under bases:, or VARIANT:STAGE.")] = "",
    from_: Annotated[
        str, typer.Option("--from", metavar="VARIANT", help="Copy its manifest: the stages are the same, and reused.")
    ] = "",
    from_mergekit: Annotated[Path | None, typer.Option(help="A file of mergekit to translate.")] = None,
    json: Json = False,
) -> None:
    """Write a variant's first manifest: to go on from, another's copy, or out of a mergekit file."""
    from builder.new import copy, new, new_from_mergekit

    given = {"--base": base, "--from": from_, "--from-mergekit": from_mergekit is not None}
    if len(names := [name for name, value in given.items() if value]) > 1:
        raise InvalidError(f"{' together with '.join(names)}", where="varietal new", mend="keep one of them")
    if from_mergekit is not None:
        started = new_from_mergekit(repository_root(), variant, from_mergekit)
    elif from_:
        started = copy(repository_root(), variant, from_)
    else:
        started = new(repository_root(), variant, base=base)
    answer(json, started.to_json(), started.lines())
    for line in started.advice():
        say(line)
    say("next: edit it, then `varietal lint`, `varietal compile` and `varietal plan`")
