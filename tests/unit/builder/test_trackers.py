"""Trackers are looked for before anything heavy is loaded, and write where nothing is removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder import trackers
from builder.runner import read_runner
from builder.trackers import check_trackers, tracker_environment
from registry.errors import InvalidError, MachineError

if TYPE_CHECKING:
    from pathlib import Path


def test_one_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: object() if name == "tensorboardX" else None)
    check_trackers(["tensorboard"])
    check_trackers([])
    with pytest.raises(MachineError) as caught:
        check_trackers(["tensorboard", "wandb"])
    assert str(caught.value) == (
        "wandb is not installed, so the training cannot report to it\n"
        "  where: .varietal/runner.yaml: report_to\n"
        "  mend: install it: pip install wandb; or take it out of `report_to:`"
    )


def test_what_they_write_is_not_in_the_work_folder(tmp_path: Path) -> None:
    assert tracker_environment([], tmp_path, "sft-0123") == {}
    assert not list(tmp_path.iterdir())
    found = tracker_environment(["tensorboard", "mlflow"], tmp_path, "sft-0123")
    assert found["TENSORBOARD_LOGGING_DIR"] == f"{tmp_path}/.varietal/trackers/tensorboard/sft-0123"
    assert found["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/.varietal/trackers/mlflow.db"
    assert (tmp_path / ".varietal/trackers").is_dir()


def test_the_runner_names_them(tmp_path: Path) -> None:
    (tmp_path / ".varietal").mkdir()
    path = tmp_path / ".varietal/runner.yaml"
    path.write_text("report_to: [tensorboard, wandb]\n")
    assert read_runner(tmp_path).report_to == ("tensorboard", "wandb")
    path.write_text("report_to: [tensorbord]\n")
    with pytest.raises(InvalidError, match="did you mean 'tensorboard'"):
        read_runner(tmp_path)
