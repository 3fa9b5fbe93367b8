"""Real processes: groups end when they are asked to, when they have to, and when whoever started them is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.drive.environment import BUILD_TOKEN
from builder.drive.processes import Running, start
from builder.drive.takeover import LOCK, end_marked, only_build
from registry.errors import ConflictError, MachineError

ENVIRONMENT = {"PATH": os.environ["PATH"]}
LIMIT_S = 10


def begin(folder: Path, script: str, *, grace_s: float = 5) -> Running:
    return start(
        ("/bin/sh", "-c", script),
        folder=folder,
        environment=ENVIRONMENT,
        log=folder / "logs/one.log",
        grace_s=grace_s,
    )


def wait_for(path: Path) -> str:
    """The content of a file that another process writes."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text()
        time.sleep(0.01)
    raise AssertionError(path)


def wait_until_gone(*pids: int) -> None:
    until = time.monotonic() + LIMIT_S
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < until, pids
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_exit_code_and_all_that_is_said(tmp_path: Path) -> None:
    running = begin(tmp_path, "echo out; echo err >&2; exit 7")
    assert running.wait() == 7
    assert (tmp_path / "logs/one.log").read_text() == "out\nerr\n"


def test_a_command_that_is_killed_ends_as_a_shell_says_it(tmp_path: Path) -> None:
    assert begin(tmp_path, "kill -9 $$").wait() == 137


def test_a_log_is_gone_on_with_or_begun_anew(tmp_path: Path) -> None:
    for again, said in ((False, "1\n"), (True, "1\n1\n"), (False, "1\n")):
        log = tmp_path / "log"
        command = ("/bin/sh", "-c", "echo 1")
        start(command, folder=tmp_path, environment=ENVIRONMENT, log=log, grace_s=1, again=again).wait()
        assert log.read_text() == said


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    running = start(("/no/such",), folder=tmp_path, environment=ENVIRONMENT, log=tmp_path / "log", grace_s=1)
    assert running.wait() == 1
    assert "No such file" in (tmp_path / "log").read_text()


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(MachineError, match="its log not be written"):
        start(("true",), folder=tmp_path, environment=ENVIRONMENT, log=tmp_path / "log", grace_s=1)


def test_a_group_that_is_asked_to_end_has_time_to_do_so(tmp_path: Path) -> None:
    """The whole group hears SIGINT, the shell's child too; the trap is the stage that saves its work."""
    running = begin(tmp_path, "trap 'sleep 0.2; echo saved; exit 3' INT; echo up > up; sleep 60 & wait")
    wait_for(tmp_path / "up")
    running.stop()
    assert running.wait() == 3
    assert (tmp_path / "logs/one.log").read_text() == "saved\n"


def test_a_group_that_does_not_end_is_killed(tmp_path: Path) -> None:
    running = begin(tmp_path, "trap '' INT; sleep 60 & echo $! > up; wait", grace_s=0.2)
    child = int(wait_for(tmp_path / "up"))
    running.stop()
    assert running.wait() == 137
    wait_until_gone(child)


def test_a_second_word_cuts_the_grace_short(tmp_path: Path) -> None:
    running = begin(tmp_path, "trap '' INT; echo up > up; sleep 60", grace_s=60)
    wait_for(tmp_path / "up")
    running.stop()
    running.kill()
    assert running.wait() == 137


def test_sigint_is_heard_where_whoever_started_us_ignores_it(tmp_path: Path) -> None:
    """A shell without a terminal starts what runs in the background so, and children inherit it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # A shell cannot trap what it found ignored.
        running = begin(tmp_path, "trap 'exit 130' INT; echo up > up; while :; do sleep 0.02; done", grace_s=60)
        wait_for(tmp_path / "up")
        running.stop()
        assert running.wait() == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path) -> None:
    """In its group, or out of it: a daemon that made a session of its own."""
    daemon = "setsid sh -c 'echo $$ > daemon; exec sleep 60' < /dev/null & sleep 60 & echo $! > child"
    running = begin(tmp_path, f"{daemon}; while [ ! -s daemon ]; do sleep 0.01; done")
    assert running.wait() == 0
    wait_until_gone(int(wait_for(tmp_path / "daemon")), int(wait_for(tmp_path / "child")))


BUILD = """
import os, sys, time
from pathlib import Path
from builder.drive.processes import start
here = Path(sys.argv[1])
environment = {"PATH": os.environ["PATH"], "VARIETAL_BUILD": "feed/v:a"}
script = "trap 'echo asked > asked; exit' INT; echo $$ > stage; sleep 60 & wait"
running = start(("/bin/sh", "-c", script), folder=here, environment=environment, log=here / "log", grace_s=5)
(here / "supervisor").write_text(f"{running.process.pid}\\n")
time.sleep(60)
"""


def test_a_build_that_is_killed_takes_its_stages_with_it(tmp_path: Path) -> None:
    build = subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path)], cwd=Path.cwd())
    stage = int(wait_for(tmp_path / "stage"))
    build.kill()
    build.wait()
    assert wait_for(tmp_path / "asked") == "asked\n"
    wait_until_gone(stage, int(wait_for(tmp_path / "supervisor")))


def test_what_outlives_build_and_supervisor_is_ended_by_the_next_build(tmp_path: Path) -> None:
    """It is known by its mark; a process of someone else that looks the same is left alone."""
    (tmp_path / ".varietal").mkdir()
    (tmp_path / LOCK).write_text('{"pid": 1, "token": "feed"}')
    build = subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path)], cwd=Path.cwd())
    stranger = subprocess.Popen(["sleep", "60"], env={BUILD_TOKEN: "feedfeed/v:a", "PATH": os.environ["PATH"]})
    stage = int(wait_for(tmp_path / "stage"))
    supervisor = int(wait_for(tmp_path / "supervisor"))
    try:
        os.kill(supervisor, signal.SIGKILL)
        build.kill()
        build.wait()
        assert is_alive(stage)
        said: list[str] = []
        with only_build(tmp_path, grace_s=0.3, say=said.append) as token:
            assert not is_alive(stage)
            assert token not in {"", "feed"}
        assert said[0].startswith("something was killed here: waiting for ")
        assert f"process {stage} that it left is still at work: it is killed" in said
        assert is_alive(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()


def test_of_a_stage_whose_supervisor_was_killed_the_rest_is_ended_and_no_other_stage() -> None:
    processes = {
        mark: subprocess.Popen(["sleep", "60"], env={BUILD_TOKEN: mark, "PATH": os.environ["PATH"]})
        for mark in ("feed/v:a", "feed/v:ab", "feed/v:b")
    }
    try:
        end_marked("feed/v:a", grace_s=0.1, say=lambda _: None)
        ended = {mark: process.poll() for mark, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    assert ended == {"feed/v:a": -signal.SIGKILL, "feed/v:ab": None, "feed/v:b": None}


def test_one_build_at_a_time(tmp_path: Path) -> None:
    with only_build(tmp_path, grace_s=1, say=print):
        with pytest.raises(ConflictError) as caught, only_build(tmp_path, grace_s=1, say=print):
            pass
        assert str(caught.value) == (
            f"a build is running here already, as process {os.getpid()}\n"
            "  where: .varietal/build.lock\n"
            "  mend: wait for it, or end it: `kill PID` lets its stages stop in order"
        )
    with only_build(tmp_path, grace_s=1, say=print):
        pass
    assert (tmp_path / LOCK).read_text() == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_torn_lock_hinders_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / ".varietal").mkdir()
    (tmp_path / LOCK).write_text(text)
    with only_build(tmp_path, grace_s=1, say=print) as token:
        assert len(token) == 32
