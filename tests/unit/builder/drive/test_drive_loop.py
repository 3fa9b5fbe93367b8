"""The loop of a build, with tasks that never get as far as a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.drive.devices import Devices
from builder.drive.drive import drive
from builder.drive.dvc import Ending
from builder.drive.progress import Lines
from builder.drive.schedule import Task
from builder.drive.slots import Slot, Slots
from builder.drive.step import Step
from builder.edges import Address
from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.drive.dvc import How

BAD, OTHER, AFTER = (Address(variant="v", stage=name) for name in ("bad", "other", "after"))


class Broken(Slots):
    """Slots whose device one of the tasks cannot get."""

    def hold(self, address: Address, number: int) -> bool:
        """Fail for one."""
        if address == BAD:
            raise MachineError("the lock cannot be made", where="/tmp", mend="")  # noqa: S108 - a text
        return super().hold(address, number)


class Quick:
    """Work that takes a moment."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def steps(self, task: Task, slot: Slot, last: How | None) -> Sequence[Step]:
        """One command."""

        def read(code: int, said: str) -> Ending:
            del said
            return Ending(how="ran", exit_code=code)

        del task, slot, last
        return (Step(command=("true",), environment={"PATH": "/bin:/usr/bin"}, read=read),)

    def log(self, address: Address) -> Path:
        """One each."""
        return self._root / f"{address.stage}.log"

    def why(self, address: Address) -> str:
        """Nobody says."""
        del address
        return ""


def test_what_a_device_cannot_be_had_for_fails_alone(tmp_path: Path) -> None:
    said: list[str] = []
    slots = Broken([Slot()], Devices((), each=1, root=tmp_path, say=said.append))
    tasks = [Task(address=BAD), Task(address=OTHER), Task(address=AFTER, needs=frozenset({BAD}))]
    report = drive(tasks, slots, Quick(tmp_path), Lines(said.append), root=tmp_path, grace_s=5, lost=lambda _: None)
    assert {one.address: (one.became, one.exit_code) for one in report.outcomes} == {
        BAD: ("failed", 8),
        AFTER: ("skipped", 0),
        OTHER: ("ran", 0),
    }
    assert [one.reason for one in report.failed] == ["the lock cannot be made"]
