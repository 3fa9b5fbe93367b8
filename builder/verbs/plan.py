"""``varietal plan``: what a build would do, why, and at what cost."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from builder.terminal import Json, answer, repository_root
from registry.counted import counted
from registry.errors import InvalidError, RefusedError

__all__ = ["register"]

_MIB_PER_GIB = 1024


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("plan")(_plan)


def _plan(
    variants: Annotated[
        list[str] | None, typer.Argument(help="Variants, planned with what they are made from; all if none.")
    ] = None,
    *,
    against: Annotated[
        str, typer.Option(help="A commit: take its locks and records, and say what its manifests had.")
    ] = "",
    request: Annotated[str, typer.Option(help="Plan a request: its branch or commit.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Fail if there is anything to build.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a comment for a pull request.")] = False,
    json: Json = False,
) -> None:
    """Say what a build would do with each stage, why, and at what cost. No GPU, no DVC."""
    from builder.plan.repository import plan_repository

    if markdown and json:
        raise InvalidError("--markdown together with --json", where="varietal plan", mend="keep one of them")
    root, since = repository_root(), against
    if request:
        from builder.request.open import open_request
        from registry.history import Repository

        opened = open_request(Repository(root), request)
        root, since = opened.root, since or opened.main
    describe = bool(markdown or json or against or request)
    plan = plan_repository(root, variants or (), against=against, since=since, describe=describe)
    card_mib = 0.0
    if not plan.is_empty:
        from builder.runner import read_runner

        card_mib = read_runner(root).card_memory_gib * _MIB_PER_GIB
    if markdown:
        from builder.plan.markdown import comment

        sys.stdout.write(comment(plan, card_mib=card_mib))
        sys.stdout.flush()
    else:
        from builder.plan.text import describe as lines_of

        answer(json, plan.to_json(), () if json else lines_of(plan, card_mib=card_mib))
    if not plan.is_empty:
        from builder.plan.fit import check_fits

        check_fits(plan.stages)
    if check and not plan.is_empty:
        waiting = [str(one.address) for one in plan.stages if one.verdict != "keep"]
        said = counted(len(waiting), "stage is not what the manifest says", "stages are not what the manifests say")
        if not waiting:
            waiting = [str(one) for one in plan.copies]
            said = counted(len(waiting), "record in git is not its lock's", "records in git are not their locks'")
        raise RefusedError(
            said,
            where=", ".join(waiting[:5]) + (" ..." if len(waiting) > 5 else ""),  # noqa: PLR2004 - the first few
            mend="`varietal build`, and commit locks and records",
        )
