"""GPUs that builds share: lock files, and processes that end in every way. The names are made up, the locks real."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from builder.drive.devices import Devices, lock_folder
from builder.drive.slots import Slot, Slots
from builder.edges import Address
from registry.errors import InvalidError, MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLDER = """\
import subprocess, sys, time
from pathlib import Path
from builder.drive.devices import Devices
devices = Devices(sys.argv[2:], each=1, root=Path("/elsewhere"), say=print)
name, lock = devices.take()
if sys.argv[1] == "child":
    child = subprocess.Popen(["sleep", "600"], pass_fds=(lock,))
    print(child.pid, flush=True)
else:
    print(name, flush=True)
time.sleep(600)
"""
LIMIT_S = 20


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of its own, and a driver that knows no GPU."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """Another process that has the GPU named ``a``."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, "alone", "a"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "a\n"
        yield process
        process.kill()


def devices(root: Path, *names: str, said: list[str] | None = None) -> Devices:
    return Devices(names, each=1, root=root, say=([] if said is None else said).append)


def take(found: Devices) -> str:
    """The name of a device; empty where none is free."""
    taken = found.take()
    return taken[0] if taken else ""


def take_soon(found: Devices) -> str:
    until = time.monotonic() + LIMIT_S
    while not (name := take(found)):
        assert time.monotonic() < until
        time.sleep(0.02)
    return name


def test_what_another_build_has_is_waited_for_and_told_once(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    said: list[str] = []
    found = devices(tmp_path, "a", said=said)
    assert [take(found), take(found)] == ["", ""]
    assert said == [f"waiting for a GPU: a is in use by process {holder.pid} in /elsewhere"]


def test_another_one_is_taken_where_there_is_one(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    assert holder.poll() is None
    said: list[str] = []
    found = devices(tmp_path, "a", "b", said=said)
    assert [take(found), take(found)] == ["b", ""]
    assert len(said) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_gives_it_back(
    holder: subprocess.Popen[str], tmp_path: Path, how: signal.Signals
) -> None:
    found = devices(tmp_path, "a")
    assert take(found) == ""
    holder.send_signal(how)
    assert take_soon(found) == "a"


def test_what_a_killed_build_left_running_keeps_its_device(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, "child", "a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
    found = devices(tmp_path, "a")
    try:
        assert take(found) == ""
    finally:
        os.kill(child, signal.SIGKILL)
    assert take_soon(found) == "a"


def test_many_at_once_never_share_one() -> None:
    """Eight processes for three devices: three have one each, and the others none."""
    script = HOLDER.replace("name, lock = devices.take()", "name = (devices.take() or '-')[0]")
    command = [sys.executable, "-c", script, "alone", "a", "b", "c"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    try:
        lines = [_last(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert sorted(lines) == ["-"] * 5 + ["a", "b", "c"]


def _last(process: subprocess.Popen[str]) -> str:
    """The name that a holder prints, after what it says of waiting."""
    assert process.stdout is not None
    while (line := process.stdout.readline().strip()).startswith("waiting"):
        pass
    return line


def test_a_lock_file_that_was_removed_is_not_taken_for_the_lock(tmp_path: Path) -> None:
    first, second = devices(tmp_path, "a"), devices(tmp_path, "a")
    assert take(first) == "a"
    (path,) = lock_folder().iterdir()
    first.give_back("a")
    assert take(second) == "a"
    path.unlink()
    second.give_back("a")
    assert take(first) == "a"
    assert path.exists()


def test_one_gpu_by_its_number_and_by_its_id_is_one(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho '0, GPU-abc-1'\necho '1, GPU-abd-2'\n")
    assert take(devices(tmp_path, "0")) == "0"
    assert take(devices(tmp_path, "GPU-abc-1")) == ""
    assert take(devices(tmp_path, "GPU-abd")) == "GPU-abd"
    assert take(devices(tmp_path, "1")) == ""
    assert take(devices(tmp_path, "GPU-ab")) == "GPU-ab", "the beginning of two ids is none"


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    found = devices(tmp_path, "../../x", "MIG-1/2/3")
    assert [take(found), take(found)] == ["../../x", "MIG-1/2/3"]
    assert sorted(path.name for path in lock_folder().iterdir()) == ["gpu-..%2F..%2Fx.lock", "gpu-MIG-1%2F2%2F3.lock"]


def test_the_folder_is_this_user_s_alone(tmp_path: Path) -> None:
    folder = lock_folder()
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(MachineError, match="not a folder of this user's own"):
        devices(tmp_path, "a")


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / f"varietal-{os.getuid()}").symlink_to(tmp_path / "other")
    with pytest.raises(MachineError) as caught:
        devices(tmp_path, "a")
    assert caught.value.mend == "remove it, or set TMPDIR for every build of this machine alike"
    assert devices(tmp_path).names == ()


def test_a_folder_that_was_removed_during_a_build_is_made_anew(tmp_path: Path) -> None:
    found = devices(tmp_path, "a")
    shutil.rmtree(lock_folder())
    assert take(found) == "a"
    assert take(devices(tmp_path, "a")) == "", "it is locked for others too"


def test_a_gpu_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="one GPU is named twice, as a and as a"):
        devices(tmp_path, "a", "b", "a")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho '0, GPU-abc-1'\n")
    with pytest.raises(InvalidError, match="one GPU is named twice, as 0 and as GPU-abc"):
        devices(tmp_path, "0", "GPU-abc")


def test_a_driver_that_does_not_answer_is_no_driver_without_gpus(tmp_path: Path) -> None:
    """Else one build would lock a GPU by its number, and another by its id."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    with pytest.raises(MachineError, match="the driver does not say which GPU is which"):
        devices(tmp_path, "0")
    assert devices(tmp_path).names == ()


def test_a_lock_holds_that_nobody_can_be_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert take(devices(tmp_path, "a")) == "a"
    said: list[str] = []
    assert take(devices(tmp_path, "a", said=said)) == ""
    assert said == ["waiting for a GPU: a is in use by another build"]


def test_a_job_that_needs_two_and_finds_one_waits_and_is_told_once(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    said: list[str] = []
    found, other = devices(tmp_path, "a", "b", said=said), devices(tmp_path, "a", "b")
    slots, stage = Slots([Slot()], found, takes=2), Address(variant="v", stage="s")
    assert [slots.hold(stage, 0) for _ in range(5)] == [False] * 5
    assert len(said) == 1
    assert take(other) == "b", "nobody waits with some"
    other.give_back("b")
    holder.kill()
    holder.wait()
    assert slots.hold(stage, 0)
    slots.let_go(0)
    assert take(other) == "a"
    assert not slots.hold(stage, 0)
    assert len(said) == 2, "the next wait is told of again"
