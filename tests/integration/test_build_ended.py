"""A build that is ended while it trains: DVC, the stage and its checkpoint, for real; and what `dvc plots` draws."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from registry.record import curve_file

if TYPE_CHECKING:
    from tests.team import Team

_LISTING = "models/support/artifacts/tone/artifact.json"
_LOG = ".varietal/logs/support/tone.log"
_PATIENCE_S = 240.0

pytestmark = pytest.mark.timeout(1200)  # a repository is built, and then trained in several times


def _lengthen(team: Team) -> None:
    team.edit("rank: 2, targets: attention}, train: {steps: 2,", "rank: 2, targets: attention}, train: {steps: 300,")
    (team.root / ".varietal").mkdir(exist_ok=True)
    (team.root / ".varietal/runner.yaml").write_text("checkpoint_steps: 1000\nthreads: 1\ngrace_s: 60\n")
    team.must("varietal", "compile")


def _wait_for(log: Path, pattern: str) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not (log.is_file() and re.search(pattern, log.read_text())):
        assert time.monotonic() < until, log.read_text() if log.is_file() else "no log"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_ended_saves_its_training(team: Team, tmp_path: Path, number: signal.Signals) -> None:
    _lengthen(team)
    whole = team.copy(tmp_path / "whole")
    whole.must("varietal", "run", "support", "tone")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    log = team.root / _LOG
    log.unlink(missing_ok=True)
    with subprocess.Popen(["varietal", "build", "support:tone"], cwd=team.root, env=environment) as build:
        _wait_for(log, r"step 30 of 300")
        build.send_signal(number)
    assert build.returncode == 128 + number
    said = log.read_text()
    ended = re.search(r"ended by SIGINT after step (\d+) of 300; the last good checkpoint is of step (\d+)", said)
    assert ended is not None, said
    assert ended[1] == ended[2]
    assert not (team.root / _LISTING).exists()
    team.must("varietal", "build", "support:tone")
    assert f"resuming from the checkpoint of step {ended[1]}" in log.read_text()
    assert (team.root / _LISTING).read_bytes() == (whole.root / _LISTING).read_bytes()


@pytest.mark.slow
def test_a_stage_that_is_ended_alone_ends_with_its_own_code(team: Team) -> None:
    _lengthen(team)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(
        ["varietal", "run", "support", "tone"], cwd=team.root, env=environment, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        lines = []
        for line in run.stderr:
            lines.append(line)
            if line.startswith("step 30 of 300"):
                run.send_signal(signal.SIGTERM)
    assert run.returncode == 8
    assert any(line.startswith("ended by SIGTERM after step ") for line in lines), lines


@pytest.mark.slow
def test_branches_are_compared_by_their_curves(team: Team) -> None:
    """From git alone: the bytes of neither branch's artifacts are looked at."""
    first = (team.root / curve_file("support", "tone")).read_text()
    assert first.splitlines()[0] == "step\tloss\tlearning_rate\tgradient_norm"
    assert len(first.splitlines()) == 3
    team.must("git", "checkout", "-q", "-b", "faster")
    team.edit("targets: attention}, train: {steps: 2,", "targets: attention}, train: {steps: 2, learning_rate: 0.05,")
    team.must("varietal", "run", "support", "tone")
    team.must("varietal", "run", "support", "records", "tone")
    team.must("git", "add", "models")
    team.commit("faster")
    assert (team.root / curve_file("support", "tone")).read_text() != first
    answer = team.must("dvc", "plots", "diff", "main", "faster", "--json")
    plots = json.loads(answer.out[answer.out.index("{") :])["data"]
    (found,) = [value for name, value in plots.items() if name.endswith("tone loss")]
    values = found[0]["content"]["data"]["values"]
    assert {(one["rev"], one["step"]) for one in values} == {
        (rev, step) for rev in ("main", "faster") for step in ("1", "2")
    }
