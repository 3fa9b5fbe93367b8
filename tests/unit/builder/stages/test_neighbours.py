"""Which losses tell how many rows were worked on at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.online_settings import GrpoTraining
from builder.stages.neighbours import neighbour_notes
from builder.train_settings import (
    CpoTraining,
    DpoTraining,
    KtoTraining,
    OrpoTraining,
    PretrainTraining,
    RewardTraining,
    SftTraining,
)

if TYPE_CHECKING:
    from builder.train_settings import Training

HELD = "the loss on held-out rows is a mean of means over 2 rows at a time"


@pytest.mark.parametrize(
    ("training", "notes"),
    [
        (DpoTraining(loss={"aot": 1.0}), ["aot compared 2 rows at a time"]),
        (
            DpoTraining(loss={"aot": 1.0, "sft": 1.0}),
            ["aot compared 2 rows at a time", "sft took the mean over the tokens of 2 rows at a time"],
        ),
        (KtoTraining(), ["kto compared 2 rows at a time"]),
        (OrpoTraining(), ["orpo took the mean over the tokens of 2 rows at a time"]),
        (CpoTraining(), ["the likelihood of cpo took the mean over the tokens of 2 rows at a time"]),
        (
            CpoTraining(loss="simpo", cpo_alpha=0.1),
            ["the likelihood of cpo took the mean over the tokens of 2 rows at a time"],
        ),
        (GrpoTraining(loss_type="bnpo"), ["bnpo took the mean over the tokens of 2 rows at a time"]),
        (DpoTraining(), []),
        (KtoTraining(loss="apo_zero_unpaired"), []),
        (CpoTraining(loss="simpo"), []),
        (CpoTraining(cpo_alpha=0.0), []),
        (GrpoTraining(), []),
        (SftTraining(), []),
        (RewardTraining(), []),
    ],
)
def test_losses_that_see_several_rows_are_told(training: Training, notes: list[str]) -> None:
    assert [*neighbour_notes(training, 2, measured=False)] == notes
    assert [*neighbour_notes(training, 2, measured=True)] == [*notes, HELD]


def test_texts_of_one_length_have_one_mean() -> None:
    assert neighbour_notes(PretrainTraining(), 2, measured=True) == ()
