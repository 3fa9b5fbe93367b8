"""Losses in which rows that are worked on at once matter to each other: a split changes more than rounding there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.online_settings import GrpoTraining
from builder.preference_rules import SORTED, likelihood_weight
from builder.train_settings import CpoTraining, DpoTraining, KtoTraining, OrpoTraining, PretrainTraining

if TYPE_CHECKING:
    from builder.train_settings import Training

__all__ = ["neighbour_notes"]


def neighbour_notes(training: Training, micro_batch: int, *, measured: bool) -> tuple[str, ...]:
    """How many rows were worked on at once, where that decides more than rounding.

    Args:
        training: The stage's ``train`` table.
        micro_batch: Rows at once on one device.
        measured: Whether the loss on held-out rows was measured.
    """
    at_once = f"{micro_batch} rows at a time"
    measured = measured and not isinstance(training, PretrainTraining)  # its rows are of one length
    compared, averaged = _compared(training), _averaged(training)
    return (
        *((f"{compared} compared {at_once}",) if compared else ()),
        *((f"{averaged} took the mean over the tokens of {at_once}",) if averaged else ()),
        *((f"the loss on held-out rows is a mean of means over {at_once}",) if measured else ()),
    )


def _compared(training: Training) -> str:
    """The losses that hold rows against each other."""
    match training:
        case DpoTraining():
            return " and ".join(sorted(SORTED & set(training.loss)))
        case KtoTraining(loss="kto"):
            return "kto"
        case _:
            return ""


def _averaged(training: Training) -> str:
    """The losses that weigh a token by how many there are in its micro-batch."""
    match training:
        case DpoTraining() if "sft" in training.loss:
            return "sft"
        case OrpoTraining():
            return "orpo"
        case CpoTraining() if likelihood_weight(training) > 0:
            return "the likelihood of cpo"
        case GrpoTraining(loss_type="bnpo"):
            return "bnpo"
        case _:
            return ""
