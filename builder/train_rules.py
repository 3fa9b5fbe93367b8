"""What the settings of a training must keep together, each clash with its key. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.clash import Clash
from builder.train_stages import DpoStage, SftStage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.train_stages import TrainStage

__all__ = ["training_clashes"]


def training_clashes(stage: TrainStage, data_format: str) -> Iterator[Clash]:
    """Settings that contradict each other, or the data.

    Args:
        stage: The stage's table, defaults filled in.
        data_format: Format of its data; empty where it is not known.
    """
    if isinstance(stage, SftStage) and stage.train.loss_on == "assistant" and data_format == "text":
        yield Clash(
            path=("train", "loss_on"),
            problem="rows of text have no assistant's turns to learn",
            mend="write `train: {loss_on: all}` in the stage",
        )
    if isinstance(stage, DpoStage) and stage.train.label_smoothing and stage.train.loss != "sigmoid":
        yield Clash(
            path=("train", "label_smoothing"),
            problem=f"the {stage.train.loss} loss has no label smoothing",
            mend="write 0, or `loss: sigmoid`",
        )
