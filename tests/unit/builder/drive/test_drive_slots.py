"""What each job gets of the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from builder.drive.devices import Devices
from builder.drive.slots import Slot, Slots, find_devices, make_slots
from builder.drive.tasks import records_address
from builder.edges import Address
from builder.runner import Runner

if TYPE_CHECKING:
    from pathlib import Path

STAGE = Address(variant="one", stage="tone")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of its own, and no driver."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_machine_without_a_gpu_does_one_thing_at_a_time_with_all_it_has() -> None:
    assert make_slots(0, (), cores=range(8), threads=0) == (Slot(),)


def test_one_job_a_gpu_each_with_its_share_of_the_processors() -> None:
    assert make_slots(0, ("0", "1"), cores=range(8), threads=0) == (Slot(cores=(0, 1, 2, 3)), Slot(cores=(4, 5, 6, 7)))


def test_threads_by_the_settings_are_not_shared_out() -> None:
    assert make_slots(2, (), cores=range(8), threads=3) == (Slot(), Slot())


def test_more_jobs_than_processors_take_turns() -> None:
    assert [slot.cores for slot in make_slots(3, (), cores=(4, 9), threads=0)] == [(4,), (9,), (4,)]


def test_the_settings_say_which_gpus() -> None:
    runner = Runner(devices=("1", "GPU-a"))
    assert find_devices(runner, {"CUDA_VISIBLE_DEVICES": "0"}) == ("1", "GPU-a")


def test_the_environment_says_which_gpus() -> None:
    assert find_devices(Runner(), {"CUDA_VISIBLE_DEVICES": " 2, 3"}) == ("2", "3")
    assert find_devices(Runner(), {"CUDA_VISIBLE_DEVICES": ""}) == ()
    assert find_devices(Runner(), {"CUDA_VISIBLE_DEVICES": "-1"}) == ()


def test_a_runner_that_computes_on_the_cpu_has_no_gpu() -> None:
    assert find_devices(Runner(device="cpu", devices=("0",)), {"CUDA_VISIBLE_DEVICES": "0"}) == ()


def test_the_driver_is_asked_where_nobody_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    assert find_devices(Runner(), {}) == ("0", "1")
    tool.write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert find_devices(Runner(), {}) == ()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert find_devices(Runner(), {}) == ()


def slots_of(count: int, names: tuple[str, ...], root: Path) -> Slots:
    each = -(-count // max(1, len(names)))
    return Slots([Slot()] * count, Devices(names, each=each, root=root, say=lambda _: None))


def test_a_slot_has_a_device_as_long_as_its_stage_runs(machine: Path) -> None:
    slots = slots_of(2, ("a", "b"), machine)
    assert str(slots) == "2 at once on GPU a, b"
    assert slots.hold(STAGE, 0)
    assert slots.hold(STAGE, 1)
    assert [slots[number].device for number in range(2)] == ["a", "b"]
    assert all(len(slots[number].handed) == 1 for number in range(2))
    slots.let_go(0)
    assert slots[0] == Slot()
    assert slots.hold(STAGE, 0)
    assert slots[0].device == "a"


def test_jobs_share_gpus_where_there_are_fewer_and_no_more_than_that(machine: Path) -> None:
    slots = slots_of(3, ("a", "b"), machine)
    assert all(slots.hold(STAGE, number) for number in range(3))
    assert [slots[number].device for number in range(3)] == ["a", "b", "a"]
    other = slots_of(1, ("a", "b"), machine)
    assert not other.hold(STAGE, 0)
    slots.let_go(0)
    assert not other.hold(STAGE, 0), "the third job is on it"
    slots.let_go(2)
    assert other.hold(STAGE, 0)
    assert other[0].device == "a"


def test_copies_of_records_wait_for_no_gpu(machine: Path) -> None:
    slots, other = slots_of(1, ("a",), machine), slots_of(1, ("a",), machine)
    assert other.hold(STAGE, 0)
    assert slots.hold(records_address(STAGE), 0)
    assert slots[0] == Slot()
    slots.let_go(0)
    assert not slots.hold(STAGE, 0)


def test_without_a_gpu_nothing_is_held_and_no_file_made(machine: Path) -> None:
    slots = slots_of(2, (), machine)
    assert str(slots) == "2 at once on the CPU"
    assert slots.hold(STAGE, 0)
    slots.let_go(0)
    assert [*machine.iterdir()] == []


def several(count: int, names: tuple[str, ...], root: Path, *, takes: int, each: int) -> Slots:
    return Slots([Slot()] * count, Devices(names, each=each, root=root, say=lambda _: None), takes=takes)


def test_a_job_of_several_processes_takes_a_gpu_for_each(machine: Path) -> None:
    assert len(make_slots(0, ("0", "1", "2", "3", "4"), cores=range(8), threads=0, processes=2)) == 2
    assert len(make_slots(0, (), cores=range(8), threads=0, processes=2)) == 1
    slots = several(2, ("a", "b", "c", "d"), machine, takes=2, each=1)
    assert str(slots) == "2 at once on GPU a, b, c, d, 2 each"
    assert slots.hold(STAGE, 0)
    assert slots.hold(STAGE, 1)
    assert [slots[number].device for number in range(2)] == ["a,b", "c,d"]
    assert all(len(slots[number].handed) == 2 for number in range(2))
    slots.let_go(0)
    assert slots[0] == Slot()
    assert slots.hold(STAGE, 0)
    assert slots[0].device == "a,b"


def test_a_job_that_gets_too_few_gpus_keeps_none(machine: Path) -> None:
    one, two = (several(1, ("a", "b", "c"), machine, takes=2, each=1) for _ in range(2))
    assert one.hold(STAGE, 0)
    assert not two.hold(STAGE, 0), "one is left"
    third = slots_of(1, ("a", "b", "c"), machine)
    assert third.hold(STAGE, 0), "and nobody keeps it waiting"
    assert third[0].device == "c"


def test_gpus_that_jobs_share_are_different_ones_in_each_job(machine: Path) -> None:
    slots = several(3, ("a", "b", "c"), machine, takes=2, each=2)
    assert all(slots.hold(STAGE, number) for number in range(3))
    assert [slots[number].device for number in range(3)] == ["a,b", "c,a", "b,c"]
