"""``varietal build``: drives the plan through DVC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from builder.terminal import Json, answer, repository_root, say
from registry.counted import counted
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.drive.build import Wish
    from builder.drive.outcome import Report
    from builder.drive.progress import Lines, Screen
    from builder.request.assembled import Assembled

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("build")(_build)


def _build(
    stages: Annotated[list[str], typer.Argument(help="VARIANT or VARIANT:STAGE; everything if none.")] = [],  # noqa: B006 - read only
    *,
    jobs: Annotated[int, typer.Option(min=0, max=1024, help="Stages at once; 0: one a GPU, or one.")] = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps of every stage, thrown away.")] = False,
    push: Annotated[bool, typer.Option("--push", help="Send bytes to the DVC remote as stages end.")] = False,
    remote: Annotated[str, typer.Option(help="Send them to this remote; the default one if none.")] = "",
    request: Annotated[str, typer.Option(help="Build a request: its branch or commit.")] = "",
    json: Json = False,
) -> None:
    """Build what the plan says: ready stages at once, each on a device of its own."""
    from builder.drive.build import Wish
    from builder.drive.progress import open_view

    if smoke and (push or remote):
        raise InvalidError("--smoke together with --push", where="varietal build", mend="a smoke test keeps nothing")
    opened, view = _opened(request), open_view(say)
    root = opened.root if opened is not None else repository_root()
    report = _drive(root, stages, Wish(jobs=jobs, push=push, remote=remote), view, smoke=smoke, request=opened)
    answer(json, report.to_json(), report.lines())
    for line in report.failures([(one, _read(root, one.log)) for one in report.failed]):
        say(line)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _opened(request: str) -> Assembled | None:
    """The work tree of a request, made of main and of what may be taken from it; nothing where this one is built."""
    if not request:
        return None
    from builder.request.open import open_request
    from registry.history import Repository

    opened = open_request(Repository(repository_root()), request)
    say(f"commit {opened.request} is built in {opened.root}")
    return opened


def _drive(
    root: Path, names: Sequence[str], wish: Wish, view: Lines | Screen, *, smoke: bool, request: Assembled | None
) -> Report:
    from builder.drive.asked import asked, named
    from builder.drive.build import build
    from builder.graph import build_graph
    from builder.load import load
    from builder.plan.fit import check_fits
    from builder.plan.plan import make_plan
    from registry.history import Repository

    workspace = load(root)
    graph = build_graph(workspace)
    addresses = asked(graph, names)
    plan = make_plan(root, workspace, graph)
    changed = Repository(root).changes()
    if changed:
        said = counted(len(changed), "change is", "changes are")
        view.note(f"{said} not committed: what is built is the work tree, not a commit")
    if smoke:
        from builder.drive.smoke import smoke as try_stages

        return try_stages(root, plan, addresses, named(graph, names), jobs=wish.jobs, view=view, say=say)
    check_fits(one for one in plan.stages if one.address in addresses)
    return build(root, graph, plan, addresses, wish, view=view, say=say, request=request)


def _read(root: Path, log: str) -> str:
    """A log; empty where a task failed before it had one."""
    path = root / log
    return path.read_text(encoding="utf-8", errors="replace") if log and path.is_file() else ""
