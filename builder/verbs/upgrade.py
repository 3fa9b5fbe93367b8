"""``varietal upgrade``: move the repository to the recipes of this tool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from builder.terminal import Json, answer, repository_root, say
from registry.counted import counted
from registry.errors import RefusedError

if TYPE_CHECKING:
    from registry.canonical import JSON

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("upgrade")(_upgrade)


def _upgrade(
    kinds: Annotated[list[str], typer.Argument(metavar="[KIND]...", help="Kinds to move; all if none.")] = [],  # noqa: B006 - read only
    *,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if a recipe is older.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; say what it would change.")] = False,
    json: Json = False,
) -> None:
    """Raise recipes in params.yaml to those of this tool, and say what that reruns."""
    from builder.plan.text import say_estimate
    from builder.plan.values import Plan, total
    from builder.start.upgrade import plan_upgrade, upgrade, write_upgrade

    root = repository_root()
    change = upgrade(root, kinds)
    plan = plan_upgrade(root, change) if change.raised else Plan(stages=())
    if not (check or dry_run):
        write_upgrade(root, change)
    certain, at_most = total(plan.stages, "run", "reuse"), total(plan.stages, "run", "reuse", "maybe")
    value: dict[str, JSON] = {
        **change.to_json(),
        "stages": [one.to_json() for one in plan.stages],
        "certain": certain.to_json(),
        "at_most": at_most.to_json(),
        "written": not (check or dry_run),
    }
    lines = [f"{one.verdict:5}  {one.address}  {say_estimate(one.estimate)}".rstrip() for one in plan.stages]
    answer(json, value, [*change.lines(), *lines])
    if check and change.raised:
        raise RefusedError(
            counted(len(change.raised), "recipe is older than this tool's", "recipes are older than this tool's"),
            where="params.yaml: recipes",
            mend="`varietal upgrade` raises them; `varietal upgrade --dry-run` says what that reruns",
        )
    if change.raised and not (check or dry_run):
        say(
            "next: commit params.yaml; nothing else changes until a build, and `varietal plan` says why each stage runs"
        )
