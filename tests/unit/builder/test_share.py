"""A stage keeps to the processors that a build gave it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = "import os; from builder.share import take_share; take_share(os.environ); print(*os.sched_getaffinity(0))"


@pytest.mark.parametrize("cores", ["", "none", "100000", ",", "-1"])
def test_where_they_cannot_be_had_it_keeps_those_that_it_has(cores: str) -> None:
    assert _cores(cores) == sorted(os.sched_getaffinity(0))


def test_it_keeps_to_its_share() -> None:
    core = max(os.sched_getaffinity(0))
    assert _cores(str(core)) == [core]


def _cores(cores: str) -> list[int]:
    environment = {**os.environ, "VARIETAL_CORES": cores}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return sorted(map(int, done.stdout.split()))
