"""``varietal doctor``: what this machine lacks, and how to mend it."""

from __future__ import annotations

from typing import Annotated

import typer

from builder.terminal import Json, answer, repository_root
from registry import cli as registry_cli
from registry.errors import InvalidError, MachineError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("doctor")(_doctor)


def _doctor(
    *,
    build: Annotated[
        bool, typer.Option("--build", help="This machine shall build: what that needs must be here.")
    ] = False,
    request: Annotated[
        bool, typer.Option("--request", help="With --build: it builds requests, so it writes to quarantine alone.")
    ] = False,
    json: Json = False,
) -> None:
    """Check this machine: git, DVC, remotes, disk, GPU, versions; each with how to mend it."""
    from builder.doctor.doctor import examine
    from registry.history import Repository

    if request and not build:
        raise InvalidError("--request without --build", where="varietal doctor", mend="write both, or neither")
    store = registry_cli.open_store()
    findings = [*examine(Repository(repository_root()), store.folder, build=build, request=request)]
    bad = [one for one in findings if one.status == "fail"]
    answer(
        json,
        {"findings": [one.to_json() for one in findings], "failed": len(bad)},
        [line for one in findings for line in one.lines()],
    )
    if bad:
        raise MachineError(
            f"{len(bad)} of {len(findings)} findings stand in the way",
            where=", ".join(one.subject for one in bad),
            mend="mend each FAIL above",
        )
