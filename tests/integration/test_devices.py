"""Two builds of one machine, in two work trees, that hand out the same GPUs: the names are made up, the builds real."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.standin import Standin, make_standin

if TYPE_CHECKING:
    import subprocess

MANIFEST = """\
schema: 1
base: tiny
data: {talks: {path: data/talks.jsonl, format: messages}}
stages:
  tone: {kind: sft, from: base, data: talks, adapter: {rank: 2}}
release: tone
"""
RUNNER = "jobs: 1\ndevices: [DEVICES]\ngrace_s: 5\n"
LIMIT_S = 60


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Standin:
    """One variant of one stage; its base is imported."""
    standin = make_standin(tmp_path_factory.mktemp("devices"), {"one": MANIFEST})
    standin.must("varietal", "build", "bases")
    standin.commit("Import")
    return standin


@pytest.fixture
def two(begun: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Standin, Standin]:
    """Two work trees on one machine."""
    (tmp_path / "machine").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "machine"))
    return begun.copy(tmp_path / "first"), begun.copy(tmp_path / "second")


def start(standin: Standin, devices: str, *, held: bool = False) -> subprocess.Popen[str]:
    """Start a build; the stage goes on until it is released where it is to be held."""
    (standin.root / ".varietal/runner.yaml").write_text(RUNNER.replace("DEVICES", devices))
    standin.tell(together="one 2\n" if held else "", ran="")
    build = standin.start("varietal", "build")
    until = time.monotonic() + LIMIT_S
    while held and "one:tone" not in standin.ran:
        assert build.poll() is None, build.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    return build


def release(standin: Standin) -> None:
    with (standin.beside / "ran").open("a") as stream:
        stream.write("start one:go 0\n")


def end(build: subprocess.Popen[str]) -> int:
    """Exit code of a build; what it says is read, and its pipes are closed."""
    build.communicate(timeout=LIMIT_S)
    return build.returncode


def waiting(build: subprocess.Popen[str]) -> str:
    """The line by which a build says that it waits."""
    assert build.stderr is not None
    for line in build.stderr:
        if line.startswith("waiting for a GPU"):
            return line
    raise AssertionError(build.communicate())


def seen_device(standin: Standin) -> str:
    found = re.search(r"^CUDA_VISIBLE_DEVICES=(.*)$", (standin.beside / "environment").read_text(), re.MULTILINE)
    return "" if found is None else found[1]


def is_running(standin: Standin) -> bool:
    """Whether the stage that was started has not ended."""
    return "end one:tone" not in (standin.beside / "ran").read_text()


def test_one_waits_for_the_other_and_says_so(two: tuple[Standin, Standin]) -> None:
    first, second = two
    one = start(first, "GPU-fake0", held=True)
    other = start(second, "GPU-fake0")
    assert waiting(other) == f"waiting for a GPU: GPU-fake0 is in use by process {one.pid} in {first.root}\n"
    assert is_running(first)
    assert second.ran == []
    release(first)
    assert (end(one), end(other)) == (0, 0)
    assert not is_running(second)
    assert (seen_device(first), seen_device(second)) == ("GPU-fake0", "GPU-fake0")


def test_a_free_device_is_taken_at_once(two: tuple[Standin, Standin]) -> None:
    first, second = two
    one = start(first, "GPU-fake0, GPU-fake1", held=True)
    assert end(start(second, "GPU-fake0, GPU-fake1")) == 0
    assert is_running(first)
    assert (seen_device(first), seen_device(second)) == ("GPU-fake0", "GPU-fake1")
    release(first)
    assert end(one) == 0


def test_a_killed_build_gives_its_device_back_when_its_stage_has_ended(two: tuple[Standin, Standin]) -> None:
    first, second = two
    one = start(first, "GPU-fake0", held=True)
    other = start(second, "GPU-fake0")
    waiting(other)
    stage = (first.beside / "ran").read_text().split()[-1]
    assert Path("/proc", stage).exists()
    one.kill()
    end(one)
    assert end(other) == 0
    assert seen_device(second) == "GPU-fake0"
    assert not Path("/proc", stage).exists(), "the stage of the killed build has ended before"


def test_a_build_that_waits_ends_when_it_is_asked_to(two: tuple[Standin, Standin]) -> None:
    first, second = two
    one = start(first, "GPU-fake0", held=True)
    other = start(second, "GPU-fake0")
    waiting(other)
    other.send_signal(signal.SIGTERM)
    assert end(other) == 128 + signal.SIGTERM
    assert second.ran == []
    one.send_signal(signal.SIGTERM)
    assert end(one) == 128 + signal.SIGTERM
    assert end(start(second, "GPU-fake0")) == 0
