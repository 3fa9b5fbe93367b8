"""What the settings of a training must keep together, each clash with its key. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.clash import Clash
from builder.online_rules import distill_clashes, rated_clashes, sampled_clashes
from builder.preference_rules import cpo_clashes, dpo_clashes, dropout_clashes, kto_clashes
from builder.train_data import held_out
from builder.train_settings import EvaluatedTraining
from builder.train_stages import (
    CpoStage,
    DistillStage,
    DpoStage,
    GrpoStage,
    KtoStage,
    OrpoStage,
    RewardStage,
    RlooStage,
    SftStage,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.train_settings import Training
    from builder.train_stages import PretrainStage, TrainStage

__all__ = ["training_clashes"]


def training_clashes(stage: TrainStage | PretrainStage, data_format: str) -> Iterator[Clash]:
    """Settings that contradict each other, or the data.

    Args:
        stage: The stage's table, defaults filled in.
        data_format: Format of its data; empty where it is not known.
    """
    if held_out(stage) is None:
        yield from _unmeasured(stage.train)
    if isinstance(stage, SftStage) and stage.train.loss_on == "assistant" and data_format == "text":
        yield Clash(
            path=("train", "loss_on"),
            problem="rows of text have no assistant's turns to learn",
            mend="write `train: {loss_on: all}` in the stage",
        )
    if isinstance(stage, DpoStage | KtoStage | OrpoStage | CpoStage | RewardStage):
        yield from dropout_clashes(stage.kind, stage.adapter)
    if isinstance(stage, DpoStage):
        yield from dpo_clashes(stage.train)
    if isinstance(stage, KtoStage):
        yield from kto_clashes(stage.train)
    if isinstance(stage, CpoStage):
        yield from cpo_clashes(stage.train)
    if isinstance(stage, GrpoStage | RlooStage):
        yield from sampled_clashes(stage.train, stage.adapter)
        yield from rated_clashes(stage.train, stage.rewards, stage.adapter)
    if isinstance(stage, DistillStage):
        yield from distill_clashes(stage.train, stage.adapter, data_format)


def _unmeasured(training: Training) -> Iterator[Clash]:
    """What asks for a loss that is never measured."""
    if not isinstance(training, EvaluatedTraining):
        return
    for key, asked in {
        "eval_steps": training.eval_steps > 0,
        "early_stopping": training.early_stopping > 0,
        "keep": training.keep == "best",
    }.items():
        if asked:
            yield Clash(
                path=("train", key),
                problem="there are no rows to measure the loss on",
                mend="add `eval:` to the stage, a data set or `{share: 0.05}`, or take it out",
            )
