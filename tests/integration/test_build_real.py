"""`varietal build` and `build --smoke` on stages that really train, fold and measure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from registry.artifact import Artifact
from registry.lock import Lock

if TYPE_CHECKING:
    from pathlib import Path

    from tests.team import Team

_TIMES = ("duration_s", "peak_memory_mib", "notes")


def tree(team: Team) -> dict[str, bytes]:
    """Every file of the variants and the bases, as far as it is not DVC's cache."""
    paths = [path for folder in ("models", "bases", ".dvc/cache") for path in (team.root / folder).rglob("*")]
    return {str(path.relative_to(team.root)): path.read_bytes() for path in paths if path.is_file()}


def facts(team: Team, stage: str) -> dict[str, object]:
    """A record without what differs from one run to the next."""
    record = json.loads((team.root / f"models/support/records/{stage}.json").read_bytes())
    notes = [note for note in record["notes"] if "tokens a second" not in note]
    return {key: value for key, value in record.items() if key not in _TIMES} | {"notes": notes}


def locked(team: Team) -> dict[str, object]:
    """What the lock says of every stage, records left out: they hold times."""
    path = team.root / "models/support/dvc.lock"
    stages = Lock.parse(path.read_bytes(), where=str(path)).stages
    return {
        name: (
            stage.command,
            {path: file for path, file in stage.dependencies.items() if not path.endswith(".json")},
            stage.parameters,
            {path: file for path, file in stage.outputs.items() if not path.endswith(".json")},
        )
        for name, stage in stages.items()
    }


def same_as_repro(team: Team, tmp_path: Path, stages: tuple[str, ...]) -> None:
    other = team.copy(tmp_path / "other")
    team.must("varietal", "build")
    other.must("dvc", "repro", "--pull", "--allow-missing")
    assert locked(team) == locked(other)
    for stage in stages:
        assert facts(team, stage) == facts(other, stage)
    assert team.must("dvc", "repro", "--pull", "--allow-missing").ran == []
    assert other.must("varietal", "build").out == "nothing to build\n"


@pytest.mark.slow
def test_a_changed_fold_is_built_as_dvc_repro_builds_it(team: Team, tmp_path: Path) -> None:
    team.edit("adapters: {pref: 1.0}", "adapters: {pref: 0.5}")
    same_as_repro(team, tmp_path, ("final", "score"))


@pytest.mark.slow
def test_changed_trainings_are_built_as_dvc_repro_builds_them(team: Team, tmp_path: Path) -> None:
    team.edit("adapter: {rank: 2, targets: attention}", "adapter: {rank: 3, targets: attention}")
    team.edit("beta: 0.1", "beta: 0.3")
    same_as_repro(team, tmp_path, ("tone", "toned", "pref", "final", "score"))


@pytest.mark.slow
def test_a_copied_variant_trains_nothing_beside_the_first(fresh: Team, tmp_path: Path) -> None:
    """Both are new, and two stages may run at once: each action is computed once, and linked once."""
    team = fresh.copy(tmp_path / "team")
    (team.root / "models/copy").mkdir()
    (team.root / "models/copy/model.yaml").write_text((team.root / "models/support/model.yaml").read_text())
    team.must("varietal", "compile")
    answer = team.must("varietal", "build", "--jobs", "2", "--json")
    became = {one["stage"]: one["became"] for one in json.loads(answer.out)["stages"]}
    for stage in ("tone", "toned", "pref", "final", "score"):
        assert {became[f"support:{stage}"], became[f"copy:{stage}"]} == {"ran", "reused"}


def test_a_smoke_test_of_a_fold_takes_its_inputs_as_they_are_and_leaves_nothing(team: Team) -> None:
    before = tree(team)
    answer = team.must("varietal", "build", "support:toned", "--smoke")
    assert answer.out == "1 ran\n"
    assert tree(team) == before
    assert not (team.root / ".varietal/smoke").exists()
    assert "support:toned" in answer.err
    assert team.must("git", "status", "--porcelain").out == ""


def test_a_smoke_test_says_which_stage_is_bad_and_why(team: Team) -> None:
    """The model is there, and has no router to put an adapter on: only its stage can tell."""
    team.edit("targets: attention", "targets: router")
    before = tree(team)
    answer = team.call("varietal", "build", "support:tone", "support:toned", "--smoke", "--json")
    assert answer.code == 4
    stages = {one["stage"]: one for one in json.loads(answer.out)["stages"]}
    assert stages["support:tone"]["became"] == "failed"
    assert "router" in stages["support:tone"]["reason"]
    assert stages["support:toned"]["became"] == "skipped"
    assert "  log: .varietal/logs/smoke/support/tone.log\n" in answer.err
    assert tree(team) == before


@pytest.mark.slow
def test_a_smoke_test_of_a_whole_variant_that_was_never_built(fresh: Team, tmp_path: Path) -> None:
    """Import, training, fold, preference, fold, evaluation: each from what the one before really gave."""
    team = fresh.copy(tmp_path / "team")
    team.edit("train: {steps: 2, batch: 2}}\n  toned", "train: {steps: 400, batch: 2}}\n  toned")
    team.edit("train: {beta: 0.1, steps: 2, batch: 2}", "train: {beta: 0.1, steps: 400, batch: 2}")
    before = tree(team)
    answer = team.must("varietal", "build", "--smoke")
    assert answer.out == "6 ran\n"
    assert tree(team) == before
    log = (team.root / ".varietal/logs/smoke/support/tone.log").read_text()
    assert "step 2 of 2" in log
    assert not (team.root / ".varietal/work").exists()
    assert not list((team.root / "models/support").glob("artifacts/*"))


def test_the_release_of_a_build_is_whole(team: Team) -> None:
    folder = team.root / "models/support/artifacts/final"
    Artifact.read(folder).verify_folder(folder)
    assert team.must("varietal", "build", "support").out == "nothing to build\n"
