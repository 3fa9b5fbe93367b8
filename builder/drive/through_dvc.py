"""How the tasks of a build are done: fetch what is missing, then let DVC judge the one stage."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from builder.drive.dvc import bring_ending, commit, fetch_ending, pull, repro, repro_ending
from builder.drive.environment import BUILD_TOKEN, stage_environment
from builder.drive.inputs import members_of, missing_inputs, missing_records, restore_records
from builder.drive.step import Step
from builder.drive.tasks import base_of_records, is_records
from builder.request.assembled import Assembled
from registry.lock import Lock
from registry.record import lock_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.drive.dvc import How
    from builder.drive.schedule import Task
    from builder.drive.slots import Slot
    from builder.graph import Address, Node
    from builder.plan.values import PlannedStage
    from builder.runner import Runner

__all__ = ["LOGS", "ThroughDvc"]

LOGS = ".varietal/logs"
"""Folder of the logs, from the root."""


class ThroughDvc:
    """How each task is done: fetch what is missing, then let DVC judge the one stage."""

    def __init__(
        self,
        root: Path,
        graph: Mapping[Address, Node],
        stages: Sequence[PlannedStage],
        runner: Runner,
        token: str,
    ) -> None:
        """Nothing is read yet but whether the tree is a request's.

        Args:
            root: Root of the repository.
            graph: Every stage.
            stages: What the plan says on each.
            runner: Settings of this machine.
            token: Mark of the build.
        """
        self._root = root
        self._graph = graph
        self._stages = {one.address: one for one in stages}
        self._runner = runner
        self._token = token
        self._of_request = Assembled.read(root) is not None

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
        command = commit(address) if last == "unlocked" else repro(address)
        step = Step(command=command, environment=environment, read=repro_ending)
        missing = self._missing(address)
        if not missing:
            return (step,)
        own = {**os.environ, BUILD_TOKEN: mark}
        fetch = Step(command=pull(missing), environment=own, read=fetch_ending)
        if not self._of_request or is_records(address):
            return fetch, step
        command = (sys.executable, "-P", "-m", "builder.drive.bring", str(self._root), address.variant, address.stage)
        return Step(command=command, environment=own, read=bring_ending), fetch, step

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


def _with_tools(own: Mapping[str, str]) -> dict[str, str]:
    """DVC finds `varietal` on the PATH: where it is not there, the folder of this Python is added at its end."""
    path = own.get("PATH", os.defpath)
    if shutil.which("varietal", path=path):
        return dict(own)
    return {**own, "PATH": f"{path}{os.pathsep}{Path(sys.executable).parent}"}
