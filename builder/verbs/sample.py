"""``varietal sample``: rows of a training stage as the model will see them, before anything is trained."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from builder.terminal import Json, answer, repository_root, say

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("sample")(_sample)


def _sample(
    variant: Annotated[str, typer.Argument(help="Name of a variant.")],
    stage: Annotated[str, typer.Argument(help="Name of a stage that trains.")],
    *,
    rows: Annotated[int, typer.Option(help="How many rows, or packed sequences, to print.", min=1, max=10_000)] = 3,
    held_out: Annotated[bool, typer.Option("--held-out", help="Take the rows that the loss is measured on.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Print the chat template, too.")] = False,
    json: Json = False,
) -> None:
    """Print rows as the model will see them in a training stage: what is learnt, what was cut, where each is from."""
    from builder.address import Address
    from builder.sample import sample_stage
    from builder.sample_text import as_json, as_lines

    address = Address(variant=variant, stage=stage)
    found = sample_stage(repository_root(), address, count=rows, held_out=held_out, say=say)
    if json:
        answer(json, as_json(found), ())
        return
    lines = as_lines(found, colour=sys.stdout.isatty(), template=template)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
