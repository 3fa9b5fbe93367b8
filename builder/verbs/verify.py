"""``varietal verify``: the proof that a ref names these bytes; if asked for, that they are what the stages give."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from builder.terminal import Json, say
from registry.errors import DigestMismatchError, RefusedError
from registry.terminal import RefText, open_store, print_report

if TYPE_CHECKING:
    from builder.proof import Recomputed
    from registry.canonical import JSON
    from registry.history import Repository
    from registry.record import Record

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("verify")(_verify)


def _verify(
    ref: RefText,
    folder: Annotated[Path | None, typer.Argument(help="A folder that should hold the artifact.")] = None,
    *,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Compute every fold, blend and the like of its lineage again.")
    ] = False,
    trainings: Annotated[
        bool, typer.Option("--trainings", help="Train again, too, where this machine is like theirs.")
    ] = False,
    json: Json = False,
) -> None:
    """Prove what a ref names, step by step; with a folder, that it holds these very bytes."""
    from registry.history import Repository
    from registry.refs import parse
    from registry.report import Report, report_proof
    from registry.resolve import resolve
    from registry.verify import prove_folder

    repository = Repository.open(Path.cwd())
    found = resolve(repository, parse(ref))
    steps = prove_folder(found.record, folder) if folder is not None else ()
    signed = repository.check_signature(f"{found.record.variant}@{found.version}") if found.version else None
    report = report_proof(found, str(folder or ""), steps, signed=signed)
    again = _recompute(repository, found.record, trainings=trainings) if recompute or trainings else None
    value: JSON = {
        **cast("dict[str, JSON]", report.json),
        "recomputed": None if again is None else again.to_json(),
    }
    lines = [] if again is None else again.lines()
    print_report(Report(value, [*report.lines, *lines]), json=json)
    if again is not None:
        _judge(again)


def _recompute(repository: Repository, record: Record, *, trainings: bool) -> Recomputed:
    from builder.recompute import recompute
    from registry.index import Index

    with Index.open(repository) as index:
        return recompute(repository.root, record, index=index, store=open_store(), say=say, trainings=trainings)


def _judge(again: Recomputed) -> None:
    """End with the code of what was found.

    Raises:
        DigestMismatchError: A record does not say what its stage gives.
        RefusedError: Of a stage it cannot be told here.
    """
    if wrong := again.of("differs"):
        raise DigestMismatchError(
            f"{len(wrong)} of {len(again.stages)} stages do not give what their records say",
            where=", ".join(one.ref for one in wrong),
            mend="do not use it; find out who changed the records or the inputs, and build it again",
        )
    if open_ := again.of("undecided"):
        raise RefusedError(
            f"of {len(open_)} of {len(again.stages)} stages it cannot be told here whether their records are right",
            where=", ".join(one.ref for one in open_),
            mend="verify it where it was built (`varietal show` says on what), with the same versions and this tool",
        )
