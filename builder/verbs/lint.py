"""``varietal lint``: every fault of every manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.terminal import Json, answer, repository_root, say
from registry.counted import counted

if TYPE_CHECKING:
    import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("lint")(_lint)


def _lint(*, json: Json = False) -> None:
    """Check every manifest; all faults are listed at once. Recipes older than the tool's are told."""
    from builder.graph import build_graph
    from builder.load import load
    from builder.start.upgrade import check_recipes

    root = repository_root()
    workspace = load(root)
    stages = len(build_graph(workspace))
    variants = sorted(workspace.manifests)
    older = check_recipes(root, workspace)
    answer(
        json,
        {"variants": [*variants], "stages": stages, "older_recipes": [one.to_json() for one in older]},
        [f"{counted(len(variants), 'variant')}, {counted(stages, 'stage')}: no fault"],
    )
    for one in older:
        say(f"{one}; what was built stays, a stage that must be built again is refused until then")
