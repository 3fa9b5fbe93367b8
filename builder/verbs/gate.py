"""``varietal gate``: every check of a release, judged from records alone."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from builder.terminal import Json, answer, repository_root
from registry.errors import InvalidError, RefusedError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("gate")(_gate)


def _gate(
    variants: Annotated[list[str] | None, typer.Argument(help="Variants; all, or all that a request touches.")] = None,
    *,
    request: Annotated[str, typer.Option(help="Judge a request: its branch or commit.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a comment for the request.")] = False,
    json: Json = False,
) -> None:
    """Judge the checks of variants from their records, and whether locks are fresh. No GPU, no evaluation."""
    from builder.request.judge import judge_request, judge_tree
    from builder.request.open import open_request
    from registry.history import Repository

    if markdown and json:
        raise InvalidError("--markdown together with --json", where="varietal gate", mend="keep one of them")
    root = repository_root()
    names = variants or []
    gated = judge_request(open_request(Repository(root), request), names) if request else judge_tree(root, names)
    if markdown:
        sys.stdout.write(gated.markdown())
        sys.stdout.flush()
    else:
        answer(json, gated.to_json(), gated.lines())
    if not gated.passed:
        where = f"request {request}" if request else ", ".join(f"models/{one.variant}" for one in gated.verdicts)
        failures = gated.failures()
        raise RefusedError(
            "the gate says no: " + "; ".join(failures) if markdown or request else "the gate says no",
            where=where,
            mend="mend each FAIL above: `dvc repro`, or another manifest",
        )
