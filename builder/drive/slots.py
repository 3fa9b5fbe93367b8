"""What each of the jobs of a build gets of the machine: a device, and its share of the processors."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.drive.devices import Devices, ask_driver
from builder.drive.tasks import is_records

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.edges import Address
    from builder.runner import Runner

__all__ = ["Slot", "Slots", "find_devices", "make_slots", "open_slots"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """The part of a machine that one job has.

    Attributes:
        device: GPU, or several, as ``CUDA_VISIBLE_DEVICES`` says it; empty where there is none, or none is needed.
        cores: Processors; empty for all.
        handed: The lock of each device, as an open file: whatever runs there keeps it open to its end.
    """

    device: str = ""
    cores: tuple[int, ...] = ()
    handed: tuple[int, ...] = ()


def find_devices(runner: Runner, own: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that a build may use: those of the runner's settings, of the environment, or all that there are.

    Args:
        runner: Settings of this machine.
        own: Environment of the build.
    """
    if runner.device == "cpu":
        return ()
    if runner.devices:
        return runner.devices
    visible = own.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(one.strip() for one in visible.split(",") if one.strip() and one.strip() != "-1")
    return tuple(index for (index,) in ask_driver("index"))


def make_slots(
    jobs: int, devices: Sequence[str], *, cores: Sequence[int], threads: int, processes: int = 1
) -> tuple[Slot, ...]:
    """Share a machine among jobs; which device each has is seen when it starts.

    Args:
        jobs: How many; 0 for as many as have devices of their own, or one on a machine without.
        devices: GPUs that there are.
        cores: Processors that this process may use.
        threads: CPU threads by the runner's settings; where they say a number, nothing is shared out.
        processes: Processes that share a training, each with a device of its own.
    """
    count = jobs or len(devices) // processes or 1
    shares = [()] * count if threads or count == 1 else _shares(cores, count)
    return tuple(Slot(cores=share) for share in shares)


class Slots:
    """The slots of one build: a stage that starts on one takes a device with it, and gives it back with it."""

    def __init__(self, slots: Sequence[Slot], devices: Devices, *, takes: int = 1) -> None:
        """No slot has a device yet.

        Args:
            slots: What each job has besides.
            devices: The GPUs.
            takes: How many of them each job takes.
        """
        self._slots = [*slots]
        self._devices = devices
        self._takes = takes

    def __len__(self) -> int:
        """How many jobs there may be at once."""
        return len(self._slots)

    def __getitem__(self, number: int) -> Slot:
        """What the job on a slot has."""
        return self._slots[number]

    def __str__(self) -> str:
        """In a few words."""
        names = self._devices.names
        place = f"GPU {', '.join(names)}" if names else "the CPU"
        several = f", {self._takes} each" if self._takes > 1 else ""
        return f"{len(self)} at once on {place}{several}"

    def hold(self, address: Address, number: int) -> bool:
        """Give a slot what a task needs; not where every GPU that is left is in use by another build.

        Raises:
            MachineError: A lock file cannot be used.
        """
        if not self._devices.names or is_records(address):
            return True
        taken = self._take()
        if taken:
            self._slots[number] = replace(
                self._slots[number], device=",".join(taken), handed=tuple(dict.fromkeys(taken.values()))
            )
            self._devices.served()
        return bool(taken)

    def let_go(self, number: int) -> None:
        """A task has ended: its device is free again."""
        slot = self._slots[number]
        for device in slot.device.split(",") if slot.device else ():
            self._devices.give_back(device)
        self._slots[number] = replace(slot, device="", handed=())

    def _take(self) -> dict[str, int]:
        """As many devices as a job takes, each with its lock; none where fewer are left: nobody waits with some."""
        taken: dict[str, int] = {}
        try:
            while len(taken) < self._takes and (one := self._devices.take(beside=taken)) is not None:
                taken[one[0]] = one[1]
            return taken if len(taken) == self._takes else {}
        finally:
            if len(taken) < self._takes:
                for device in taken:
                    self._devices.give_back(device)


def open_slots(runner: Runner, jobs: int, root: Path, say: Callable[[str], None]) -> Slots:
    """The slots that this machine has for a build.

    Args:
        runner: Settings of this machine.
        jobs: Stages at once; 0 for what the settings say.
        root: Root of the repository.
        say: Tells the person at the terminal.

    Raises:
        InvalidError: One GPU is named twice.
        MachineError: There is no place for the lock files of GPUs, or the driver does not say which is which.
    """
    names = find_devices(runner, os.environ)
    takes = max(1, min(runner.processes, len(names)))
    slots = make_slots(
        jobs or runner.jobs,
        names,
        cores=sorted(os.sched_getaffinity(0)),
        threads=runner.threads,
        processes=takes,
    )
    each = -(-len(slots) * takes // max(1, len(names)))
    return Slots(slots, Devices(names, each=each, root=root, say=say), takes=takes)


def _shares(cores: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Neighbouring processors to the same job; where there are more jobs than processors, they take turns."""
    size = max(1, len(cores) // count)
    starts = ((number * size) % max(1, len(cores) - size + 1) for number in range(count))
    return [tuple(cores[start : start + size]) for start in starts]
