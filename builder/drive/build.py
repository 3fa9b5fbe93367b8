"""`varietal build`: from a plan to what became of it; refused before anything is computed where it cannot go well."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.compiled import is_written
from builder.drive.asking import ask
from builder.drive.copies import with_copies
from builder.drive.drive import drive
from builder.drive.environment import BUILD_TOKEN
from builder.drive.errand import errand_of
from builder.drive.noting import can_sign
from builder.drive.pushes import Pushes
from builder.drive.resume import resumable
from builder.drive.slots import open_slots
from builder.drive.takeover import end_marked, only_build
from builder.drive.tasks import tasks_of
from builder.drive.through_dvc import LOGS, ThroughDvc
from builder.pipeline import pipeline_file, pipelines
from builder.request.machine import quarantine_of
from builder.runner import read_runner
from registry.conflict_markers import left_markers
from registry.counted import counted
from registry.errors import InvalidError, MachineError
from registry.lock import Lock
from registry.record import lock_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.drive.errand import Errand
    from builder.drive.outcome import Report
    from builder.drive.progress import Lines, Screen
    from builder.graph import Address, Node
    from builder.plan.values import Plan
    from builder.request.assembled import Assembled
    from builder.runner import Runner

__all__ = ["Wish", "build", "check_pipelines", "read_locks"]

_SPARE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What the person at the command line wants beside the runner's settings.

    Attributes:
        jobs: Stages at once; 0 for what the runner says.
        push: Whether bytes go to a remote as stages end.
        remote: Which one; empty for the runner's, or the default one.
    """

    jobs: int = 0
    push: bool = False
    remote: str = ""


def check_pipelines(root: Path, graph: Mapping[Address, Node], addresses: Sequence[Address]) -> None:
    """Refuse pipelines that are not what the manifests say: DVC would run something else than was planned.

    Raises:
        InvalidError: One of them is stale.
    """
    texts = pipelines(graph)
    paths = sorted({str(pipeline_file(address.variant)) for address in addresses})
    stale = [path for path in paths if not is_written(root / path, texts[path])]
    if stale:
        count = counted(len(stale), "pipeline is", "pipelines are")
        raise InvalidError(
            f"{count} not what the manifests say{left_markers(root, stale)}",
            where=", ".join(stale),
            mend="run `varietal compile`, look at what it changed, then build again",
        )


def read_locks(root: Path, addresses: Sequence[Address]) -> dict[str, Lock]:
    """The lock of every variant that was asked for, where it has one.

    Raises:
        InvalidError: One cannot be read, by conflict markers for example.
    """
    locks = {}
    for variant in sorted({address.variant for address in addresses}):
        path = lock_file(variant)
        if (root / path).exists():
            locks[variant] = Lock.parse((root / path).read_bytes(), where=str(path))
    return locks


def build(
    root: Path,
    graph: Mapping[Address, Node],
    plan: Plan,
    addresses: Sequence[Address],
    wish: Wish,
    *,
    view: Lines | Screen,
    say: Callable[[str], None],
    request: Assembled | None = None,
) -> Report:
    """Drive a plan through DVC.

    Args:
        root: Root of the repository.
        graph: Every stage.
        plan: What is to be done.
        addresses: The stages that were asked for, with all that they are made from.
        wish: What the command line says.
        view: Shows what happens.
        say: Tells the person at the terminal.
        request: The request whose tree this is, as it was assembled a moment ago; ``None`` for a checkout.

    Returns:
        What became of every task.

    Raises:
        ConflictError: Another build is running here.
        InvalidError: A lock, a pipeline or the runner's settings are wrong.
        NotFoundError: There is no such remote, or no such key.
        DeniedError: The remote refuses, or the key cannot be used.
        MachineError: The disk is full before anything began, or processes of a killed build do not end.
    """
    runner = read_runner(root)
    check_pipelines(root, graph, addresses)
    wanted = set(addresses)
    stages = tuple(one for one in plan.stages if one.address in wanted)
    tasks = tasks_of(stages, graph, read_locks(root, addresses))
    slots = open_slots(runner, wish.jobs, root, view.note)
    _check_room(root)
    with only_build(root, grace_s=runner.grace_s + 5, say=say) as token:
        errand = errand_of(root, request)
        # What a request gives is nobody's yet: it never goes to the remote of released bytes by itself.
        errand = replace(errand, remote=wish.remote or ("" if errand.kind == "requests" else runner.push))
        kept = [one.address for one in stages if one.verdict == "keep"]
        pushes = _pushes(errand, runner, token, kept, say=view.note) if _sends(wish, runner) else None
        own = {**os.environ, BUILD_TOKEN: f"{token}/recall"}
        notes = resumable(errand, own, view.note) if tasks else None
        asked = errand if errand.kind == "requests" else None
        work = ThroughDvc(root, graph, stages, runner, token, notes=notes, quarantine=asked)
        view.note(f"{counted(len(tasks), 'task')}, {slots}")
        report = drive(
            tasks,
            slots,
            work,
            view,
            root=root,
            grace_s=runner.grace_s,
            lost=lambda address: end_marked(f"{token}/{address}", grace_s=runner.grace_s, say=view.note),
            pushes=pushes,
        )
        return with_copies(errand, addresses, report, say=view.note)


def _check_room(root: Path) -> None:
    free = shutil.disk_usage(root).free
    if free < _SPARE_BYTES:
        raise MachineError(
            f"{free} bytes are free, a build needs {_SPARE_BYTES} for its own files alone",
            where=str(root),
            mend="make room (`dvc gc --workspace` removes what no pipeline names), then build again",
        )


def _sends(wish: Wish, runner: Runner) -> bool:
    return wish.push or bool(wish.remote or runner.push)


def _pushes(
    errand: Errand, runner: Runner, token: str, kept: Sequence[Address], *, say: Callable[[str], None]
) -> Pushes:
    """Where bytes go as stages end; remote and key are tried before anything is computed.

    Raises:
        Error: The remote cannot be reached, or the key not be used, by class.
    """
    if errand.kind == "requests" and not errand.remote:
        errand = replace(errand, remote=quarantine_of(errand.home))
    errand = replace(errand, signs=can_sign(errand, say))
    own = {**os.environ, BUILD_TOKEN: f"{token}/push"}
    where = errand.remote or "the default remote"
    ask("builder.drive.push", errand.to_text(), "0", folder=errand.root, environment=own, where=where)
    return Pushes(
        errand,
        own,
        errand.root / LOGS / "push.log",
        since_s=time.time(),
        kept=kept,
        grace_s=runner.grace_s,
    )
