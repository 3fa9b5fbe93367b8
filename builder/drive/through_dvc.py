"""How the tasks of a build are done: fetch what is missing, take what others finished, let DVC judge the one stage."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from builder.drive.dvc import bring_ending, commit, fetch_ending, pull, recall_ending, repro, repro_ending
from builder.drive.environment import BUILD_TOKEN, stage_environment
from builder.drive.inputs import members_of, missing_inputs, missing_records, restore_records
from builder.drive.step import Step
from builder.drive.tasks import base_of_records, is_records
from registry.lock import Lock
from registry.record import lock_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.drive.dvc import How
    from builder.drive.errand import Errand
    from builder.drive.schedule import Task
    from builder.drive.slots import Slot
    from builder.graph import Address, Node
    from builder.plan.values import PlannedStage
    from builder.runner import Runner

__all__ = ["LOGS", "ThroughDvc"]

LOGS = ".varietal/logs"
"""Folder of the logs, from the root."""


class ThroughDvc:
    """How each task is done, by commands one after the other."""

    def __init__(
        self,
        root: Path,
        graph: Mapping[Address, Node],
        stages: Sequence[PlannedStage],
        runner: Runner,
        token: str,
        *,
        notes: Errand | None = None,
        quarantine: Errand | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            root: Root of the repository.
            graph: Every stage.
            stages: What the plan says on each.
            runner: Settings of this machine.
            token: Mark of the build.
            notes: What looks for notes of other runners before each stage; ``None`` where there are none.
            quarantine: What brings inputs out of quarantine; ``None`` where no request is built.
        """
        self._root = root
        self._graph = graph
        self._stages = {one.address: one for one in stages}
        self._runner = runner
        self._token = token
        self._notes = notes
        self._quarantine = quarantine

    def steps(self, task: Task, slot: Slot, last: How | None) -> Sequence[Step]:
        """Fetching has the credentials of the build, the stage has not."""
        address = task.address
        mark = f"{self._token}/{address}"
        environment = stage_environment(
            _with_tools(os.environ),
            passed=self._runner.environment,
            device=slot.device,
            cores=slot.cores,
            mark=mark,
        )
        if last == "unlocked":
            return (Step(command=commit(address), environment=environment, read=repro_ending),)
        own = {**os.environ, BUILD_TOKEN: mark}
        step = Step(command=repro(address), environment=environment, read=repro_ending)
        return *self._fetching(address, own), *self._recalling(address, own), step

    def _fetching(self, address: Address, own: Mapping[str, str]) -> Iterator[Step]:
        """Brings what the task is missing."""
        missing = self._missing(address)
        if missing and self._quarantine is not None and not is_records(address):
            command = _process("builder.drive.bring", self._quarantine.to_text(), address.variant, address.stage)
            yield Step(command=command, environment=own, read=bring_ending)
        if missing:
            yield Step(command=pull(missing), environment=own, read=fetch_ending)

    def _recalling(self, address: Address, own: Mapping[str, str]) -> Iterator[Step]:
        """Looks for what another runner finished."""
        if self._notes is not None and not is_records(address):
            command = _process("builder.drive.recall", self._notes.to_text(), address.variant, address.stage)
            yield Step(command=command, environment=own, read=recall_ending)

    def log(self, address: Address) -> Path:
        """One file a stage, of the last build that started it."""
        return self._root / LOGS / address.variant / f"{address.stage}.log"

    def why(self, address: Address) -> str:
        """The reasons of the plan."""
        if is_records(address):
            return "copies the records into git"
        planned = self._stages[address]
        return "; ".join(planned.reasons) or planned.verdict

    def _missing(self, address: Address) -> Sequence[str]:
        if not is_records(address):
            return missing_inputs(self._root, self._graph[address])
        members = members_of(self._graph, address.variant, base_of_records(address))
        absent = missing_records(self._root, members)
        if not absent:
            return ()
        path = lock_file(address.variant)
        return restore_records(self._root, absent, Lock.parse((self._root / path).read_bytes(), where=str(path)))


def _process(module: str, *arguments: str) -> tuple[str, ...]:
    """The command of a process of ours; nothing in the work tree is taken for one of its modules."""
    return (sys.executable, "-P", "-m", module, *arguments)


def _with_tools(own: Mapping[str, str]) -> dict[str, str]:
    """DVC finds `varietal` on the PATH: where it is not there, the folder of this Python is added at its end."""
    path = own.get("PATH", os.defpath)
    if shutil.which("varietal", path=path):
        return dict(own)
    return {**own, "PATH": f"{path}{os.pathsep}{Path(sys.executable).parent}"}
