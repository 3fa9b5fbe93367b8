"""kill -9 at exact points of a stage: nothing half is ever shown, and the next run ends with the same bytes."""

from __future__ import annotations

import fcntl
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from registry.record import artifact_folder, artifact_record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.team import Answer, Team

# Runs one stage in a process that kills itself at the n-th call of a function.
DRIVER = """
import importlib, os, signal, sys
from pathlib import Path
module, name, count, variant, stage = sys.argv[1:]
place = importlib.import_module(module)
*owners, name = name.split(".")
for owner in owners:
    place = getattr(place, owner)
real, calls = getattr(place, name), 0
def killed(*arguments, **named):
    global calls
    calls += 1
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)
setattr(place, name, killed)
from builder.graph import Address
from builder.run import run_stage
from registry.history import Repository
from registry.index import Index
from registry.store import Store
with Index.open(Repository(Path.cwd())) as index:
    run_stage(Path.cwd(), Address(variant=variant, stage=stage), index=index, store=Store(Path("../store")), say=print)
"""


def kill_at(team: Team, module: str, name: str, count: int, stage: str) -> Answer:
    return team.call(sys.executable, "-c", DRIVER, module, name, str(count), "support", stage)


def unbuild(team: Team, stage: str) -> None:
    """Make a stage that nothing can restore: other settings, and no output in the work tree."""
    team.edit("{tone: 1.0}", "{tone: 0.75}")
    for path in (artifact_folder("support", stage), artifact_record("support", stage)):
        team.must("rm", "-rf", str(path))


def shown(team: Team, stage: str) -> tuple[bool, bool]:
    return (team.root / artifact_folder("support", stage)).exists(), (
        team.root / artifact_record("support", stage)
    ).exists()


@pytest.mark.parametrize(
    ("module", "name", "count", "visible"),
    [
        ("registry.safetensors", "Writer.finish", 2, (False, False)),
        ("registry.artifact", "Artifact.write", 1, (False, False)),
        ("builder.work", "write_file", 1, (False, False)),
        ("builder.run", "publish", 1, (False, False)),
        ("builder.work", "_link_tree", 1, (False, False)),
        ("builder.work", "write_file", 2, (True, False)),
    ],
    ids=[
        "a shard",
        "the listing",
        "the record",
        "before it is shown",
        "while it is linked",
        "between folder and record",
    ],
)
def test_a_fold_killed_anywhere_ends_with_the_same_bytes(
    team: Team, module: str, name: str, count: int, visible: tuple[bool, bool]
) -> None:
    unbuild(team, "toned")
    assert kill_at(team, module, name, count, "toned").code == -signal.SIGKILL
    assert shown(team, "toned") == visible
    team.must("varietal", "run", "support", "toned")
    digest = team.must("sha256sum", "models/support/artifacts/toned/artifact.json").out
    team.must("rm", "-rf", "models/support/artifacts/toned", "models/support/artifacts/toned.json")
    team.must("varietal", "run", "support", "toned")
    assert team.must("sha256sum", "models/support/artifacts/toned/artifact.json").out == digest
    assert not list((team.root / ".varietal/work").iterdir())


def test_what_was_finished_before_the_kill_is_not_computed_again(team: Team) -> None:
    unbuild(team, "toned")
    assert kill_at(team, "builder.run", "publish", 1, "toned").code == -signal.SIGKILL
    answer = team.must("varietal", "run", "support", "toned")
    assert "support:toned: finished by an earlier run that could not show it" in answer.err
    assert "tensors change" not in answer.err


def test_a_training_killed_after_a_checkpoint_resumes_and_gives_the_same_bytes(team: Team, tmp_path: Path) -> None:
    """The stage of an untouched copy is the one that was never killed."""
    text = "batch: 2}}\n  toned"
    team.edit(text, "batch: 2, learning_rate: 1e-3}}\n  toned")
    team.edit("rank: 2, targets: attention}, train: {steps: 2,", "rank: 2, targets: attention}, train: {steps: 6,")
    (team.root / ".varietal/runner.yaml").write_text("checkpoint_steps: 2\n")
    whole = team.copy(tmp_path / "whole")
    whole.must("varietal", "run", "support", "tone")
    killed = kill_at(team, "builder.engines.checkpoints", "_listing", 2, "tone")
    assert killed.code == -signal.SIGKILL, killed.err
    answer = team.must("varietal", "run", "support", "tone")
    assert "resum" in answer.err
    listing = "models/support/artifacts/tone/artifact.json"
    assert (team.root / listing).read_bytes() == (whole.root / listing).read_bytes()


def test_a_record_stage_killed_half_way_leaves_whole_records(team: Team) -> None:
    script = DRIVER[: DRIVER.index("from builder.graph")]
    script += "from builder.records import copy_records\n"
    script += "copy_records(Path.cwd(), 'support', ['tone', 'toned'], prune=False)\n"
    for stage in ("tone", "toned"):
        (team.root / f"models/support/records/{stage}.json").unlink()
    killed = team.call(sys.executable, "-c", script, "builder.records", "write_file", "2", "support", "records")
    assert killed.code == -signal.SIGKILL
    team.record("tone")
    assert not (team.root / "models/support/records/toned.json").exists()
    team.must("varietal", "run", "support", "records")
    assert team.must("git", "status", "--porcelain").out == ""


def test_a_second_run_of_the_same_action_is_refused_while_the_first_is_at_it(team: Team) -> None:
    unbuild(team, "toned")
    assert kill_at(team, "builder.run", "publish", 1, "toned").code == -signal.SIGKILL
    (work,) = (team.root / ".varietal/work").iterdir()
    with (work / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = team.call("varietal", "run", "support", "toned")
    assert answer.code == 5
    assert "is at this stage already" in answer.err
    assert "mend: wait for it, or end it" in answer.err


def test_a_full_disk_is_said_and_nothing_is_shown(team: Team) -> None:
    unbuild(team, "toned")
    script = DRIVER.replace("os.kill(os.getpid(), signal.SIGKILL)", "raise OSError(28, 'No space left on device')")
    answer = team.call(sys.executable, "-c", script, "registry.safetensors", "Writer._put", "9", "support", "toned")
    assert answer.code == 1  # the driver has no catch; `main` ends this class with 8
    assert "registry.errors.MachineError: the disk is full" in answer.err
    assert "mend: make room and run again" in answer.err
    assert shown(team, "toned") == (False, False)
    team.must("varietal", "run", "support", "toned")
