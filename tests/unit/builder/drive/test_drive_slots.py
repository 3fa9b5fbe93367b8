"""What each job gets of the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from builder.drive.slots import Slot, find_devices, make_slots
from builder.runner import Runner

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_machine_without_a_gpu_does_one_thing_at_a_time_with_all_it_has() -> None:
    assert make_slots(0, (), cores=range(8), threads=0) == (Slot(),)


def test_one_job_a_gpu_each_with_its_share_of_the_processors() -> None:
    assert make_slots(0, ("0", "1"), cores=range(8), threads=0) == (
        Slot(device="0", cores=(0, 1, 2, 3)),
        Slot(device="1", cores=(4, 5, 6, 7)),
    )


def test_jobs_share_gpus_where_there_are_fewer() -> None:
    assert [slot.device for slot in make_slots(3, ("0", "1"), cores=range(6), threads=0)] == ["0", "1", "0"]


def test_fewer_jobs_than_gpus_take_the_first() -> None:
    assert [slot.device for slot in make_slots(1, ("2", "3"), cores=range(6), threads=0)] == ["2"]


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
