"""`varietal build`: from a plan to what became of it; refused before anything is computed where it cannot go well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.compiled import is_written
from builder.drive.drive import drive
from builder.drive.environment import BUILD_TOKEN
from builder.drive.pushes import Pushes
from builder.drive.slots import find_devices, make_slots
from builder.drive.takeover import end_marked, only_build
from builder.drive.tasks import tasks_of
from builder.drive.through_dvc import LOGS, ThroughDvc
from builder.pipeline import pipeline_file, pipelines
from builder.request.assembled import Assembled
from builder.request.machine import quarantine_of
from builder.runner import read_runner
from registry.conflict_markers import left_markers
from registry.counted import counted
from registry.errors import Error, InvalidError, MachineError
from registry.lock import Lock
from registry.record import lock_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.drive.outcome import Report
    from builder.drive.progress import Lines, Screen
    from builder.drive.slots import Slot
    from builder.graph import Address, Node
    from builder.plan.values import Plan
    from builder.runner import Runner

__all__ = ["Wish", "build", "check_pipelines", "read_locks"]

_SPARE_BYTES = 64 << 20
_FETCH_S = 600


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
        raise InvalidError(
            f"{counted(len(stale), 'pipeline is', 'pipelines are')} not what the manifests say{left_markers(root, stale)}",
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

    Returns:
        What became of every task.

    Raises:
        ConflictError: Another build is running here.
        InvalidError: A lock, a pipeline or the runner's settings are wrong.
        NotFoundError: There is no such remote.
        MachineError: The disk is full before anything began, or processes of a killed build do not end.
    """
    runner = read_runner(root)
    check_pipelines(root, graph, addresses)
    wanted = set(addresses)
    stages = tuple(one for one in plan.stages if one.address in wanted)
    tasks = tasks_of(stages, graph, read_locks(root, addresses))
    slots = make_slots(
        wish.jobs or runner.jobs,
        find_devices(runner, os.environ),
        cores=sorted(os.sched_getaffinity(0)),
        threads=runner.threads,
    )
    _check_room(root)
    with only_build(root, grace_s=runner.grace_s + 5, say=say) as token:
        work = ThroughDvc(root, graph, stages, runner, token)
        pushes = _pushes(root, wish, runner, token, [one.address for one in stages if one.verdict == "keep"])
        view.note(f"{counted(len(tasks), 'task')}, {_jobs(slots)}")
        return drive(
            tasks,
            slots,
            work,
            view,
            root=root,
            grace_s=runner.grace_s,
            lost=lambda address: end_marked(f"{token}/{address}", grace_s=runner.grace_s, say=view.note),
            pushes=pushes,
        )


def _jobs(slots: Sequence[Slot]) -> str:
    devices = sorted({slot.device for slot in slots} - {""})
    place = f"GPU {', '.join(devices)}" if devices else "the CPU"
    return f"{len(slots)} at once on {place}"


def _check_room(root: Path) -> None:
    free = shutil.disk_usage(root).free
    if free < _SPARE_BYTES:
        raise MachineError(
            f"{free} bytes are free, a build needs {_SPARE_BYTES} for its own files alone",
            where=str(root),
            mend="make room (`dvc gc --workspace` removes what no pipeline names), then build again",
        )


def _pushes(root: Path, wish: Wish, runner: Runner, token: str, kept: Sequence[Address]) -> Pushes | None:
    """Where bytes go as stages end; the remote is reached for before anything is computed.

    Raises:
        Error: It cannot be reached, by class.
    """
    if not (wish.push or wish.remote or runner.push):
        return None
    # What a request gives is nobody's yet: it never goes to the remote of released bytes by itself.
    remote = wish.remote or (quarantine_of(root) if Assembled.read(root) is not None else runner.push)
    own = {**os.environ, BUILD_TOKEN: f"{token}/push"}
    command = (sys.executable, "-P", "-m", "builder.drive.push", str(root), remote, "0")
    try:
        done = subprocess.run(command, cwd=root, env=own, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            "the remote did not answer", where=remote or "the default remote", mend="check the network"
        ) from error
    if done.returncode:
        raise _reported(done.returncode, done.stderr, remote)
    return Pushes(
        root,
        remote,
        own,
        root / LOGS / "push.log",
        since_s=time.time(),
        kept=kept,
        grace_s=runner.grace_s,
    )


def _reported(code: int, text: str, remote: str) -> Error:
    """The error that another process of ours ended with."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    parts = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
    kinds = {kind.exit_code: kind for kind in Error.__subclasses__()}
    first = next((line for line in lines if not line.startswith(("where: ", "mend: "))), "nothing was said")
    return kinds.get(code, MachineError)(
        first, where=parts.get("where", remote or "the default remote"), mend=parts.get("mend", "see the message")
    )
