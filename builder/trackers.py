"""Trackers that a training may report to: whether they are there, and where they keep what they write. No torch.

They are the machine's business alone: no action and no byte of an artifact depends on them. What they need to log in
comes through the runner's `environment:`, as every credential does.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Tracker", "check_trackers", "tracker_environment"]

Tracker: TypeAlias = Literal["tensorboard", "wandb", "mlflow"]

_PACKAGES: Final[dict[Tracker, tuple[str, ...]]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}
_FOLDER: Final = ".varietal/trackers"


def check_trackers(trackers: Iterable[Tracker]) -> None:
    """Refuse trackers that cannot be reported to, before anything heavy is loaded.

    Raises:
        MachineError: One of them is not installed.
    """
    for tracker in trackers:
        if not any(find_spec(package) for package in _PACKAGES[tracker]):
            raise MachineError(
                f"{tracker} is not installed, so the training cannot report to it",
                where=".varietal/runner.yaml: report_to",
                mend=f"install it: pip install {_PACKAGES[tracker][0]}; or take it out of `report_to:`",
            )


def tracker_environment(trackers: Iterable[Tracker], root: Path, run: str) -> dict[str, str]:
    """Variables that keep what the trackers write out of the work folder, which is removed when a stage is done.

    Args:
        trackers: Those that are reported to.
        root: Root of the repository.
        run: Name of the training; a resumed one has the same.
    """
    place = root / _FOLDER
    wanted: dict[Tracker, dict[str, str]] = {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(place / "tensorboard" / run)},
        "wandb": {"WANDB_DIR": str(place), "WANDB_PROJECT": "varietal"},
        "mlflow": {
            "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
            "MLFLOW_EXPERIMENT_NAME": "varietal",
        },
    }
    found = {name: value for tracker in trackers for name, value in wanted[tracker].items()}
    if found:
        place.mkdir(parents=True, exist_ok=True)
    return found
