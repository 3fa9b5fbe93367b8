"""`varietal build --smoke`: every stage for a few steps, in dependency order, in a tree that is thrown away."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from builder.drive.drive import drive
from builder.drive.dvc import smoke_ending
from builder.drive.environment import stage_environment
from builder.drive.schedule import Task
from builder.drive.slots import open_slots
from builder.drive.smoke_tree import lay_out
from builder.drive.step import Step
from builder.drive.takeover import end_marked, only_build
from builder.runner import read_runner
from builder.work import remove_tree
from registry.record import artifact_folder, artifact_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.drive.dvc import How
    from builder.drive.outcome import Report
    from builder.drive.progress import Lines, Screen
    from builder.drive.slots import Slot
    from builder.edges import Address
    from builder.plan.values import Plan
    from builder.runner import Runner

__all__ = ["smoke"]

_LOGS = ".varietal/logs/smoke"


def smoke(
    root: Path,
    plan: Plan,
    addresses: Sequence[Address],
    named: Sequence[Address],
    *,
    jobs: int,
    view: Lines | Screen,
    say: Callable[[str], None],
) -> Report:
    """Try stages; nothing under models/ changes, nothing is recorded, nothing is left but the logs.

    Args:
        root: Root of the repository.
        plan: What a build would do: what is up to date is taken as it is, unless it was named.
        addresses: The stages that were asked for, with all that they are made from.
        named: Those that were asked for.
        jobs: Stages at once; 0 for what the runner says.
        view: Shows what happens.
        say: Tells the person at the terminal.

    Raises:
        ConflictError: A build is running here.
        InvalidError: The runner's settings are wrong.
    """
    runner = read_runner(root)
    ready = {one.address for one in plan.stages if one.verdict == "keep" or one.kind == "import"} - _trained(
        plan, named
    )
    built = [one for one in addresses if one in ready and _is_there(root, one)]
    needs = {one.address: one.needs for one in plan.stages}
    tried = [one for one in addresses if one not in built]
    tasks = [Task(address=one, needs=frozenset(needs[one]) & set(tried)) for one in tried]
    slots = open_slots(runner, jobs, root, view.note)
    with only_build(root, grace_s=runner.grace_s + 5, say=say) as token:
        tree = lay_out(root, addresses, built)
        try:
            return drive(
                tasks,
                slots,
                _Tries(root, tree, runner, token),
                view,
                root=root,
                grace_s=runner.grace_s,
                lost=lambda address: end_marked(f"{token}/{address}", grace_s=runner.grace_s, say=view.note),
            )
        finally:
            remove_tree(tree)


def _trained(plan: Plan, named: Sequence[Address]) -> set[Address]:
    """Stages that were named and do more than bring something in."""
    return {one.address for one in plan.stages if one.address in set(named) and one.kind != "import"}


def _is_there(root: Path, address: Address) -> bool:
    place = address.variant, address.stage
    return (root / artifact_folder(*place)).is_dir() and (root / artifact_record(*place)).is_file()


class _Tries:
    """How each stage is tried."""

    def __init__(self, root: Path, tree: Path, runner: Runner, token: str) -> None:
        self._root = root
        self._tree = tree
        self._runner = runner
        self._token = token

    def steps(self, task: Task, slot: Slot, last: How | None) -> Sequence[Step]:  # noqa: ARG002 - there is one try
        """One process, in the environment that the stage will have in a build."""
        address = task.address
        places = str(self._root), str(self._tree), address.variant, address.stage
        environment = stage_environment(
            os.environ,
            passed=self._runner.environment,
            device=slot.device,
            cores=slot.cores,
            mark=f"{self._token}/{address}",
        )
        command = (sys.executable, "-P", "-m", "builder.drive.smoke_stage", *places)
        return (Step(command=command, environment=environment, read=smoke_ending),)

    def log(self, address: Address) -> Path:
        """One file a stage."""
        return self._root / _LOGS / address.variant / f"{address.stage}.log"

    def why(self, address: Address) -> str:  # noqa: ARG002 - the same for all
        """Because it was asked for."""
        return "a few steps"
