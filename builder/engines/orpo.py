"""Preference training by TRL's ORPO: the likelihood of the better answer, and the odds of both. No reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.engines.experimental import trainer_of
from builder.engines.unreferenced import train_unreferenced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.engines.job import Job, Trained
    from builder.stages.tokens import Pair
    from builder.train_settings import OrpoTraining

__all__ = ["train_orpo"]


def train_orpo(
    job: Job,
    model: Any,  # noqa: ANN401 - TRL has no types
    tokenizer: Any,  # noqa: ANN401
    pairs: Sequence[Pair],
    *,
    training: OrpoTraining,
    new_adapter: Any = None,  # noqa: ANN401
    evaluation: Sequence[Pair] | None = None,
) -> Trained:
    """Train on preferences by odds ratio preference optimisation.

    Args:
        job: Settings and place.
        model: A causal model, or PEFT's wrapper of one; what requires gradients is trained, in place.
        tokenizer: Its tokenizer.
        pairs: The preferences; of each, some of both answers is within ``max_length``.
        training: The stage's ``train`` table: what is ORPO's own.
        new_adapter: PEFT configuration of an adapter to put on ``model``.
        evaluation: Pairs that are not learnt, to measure the loss on.

    Raises:
        InvalidError: The best weights cannot be kept on these devices.
        MachineError: The installed TRL has no ORPO, the loss is no number, or the device's memory does not do.
    """
    return train_unreferenced(
        job,
        model,
        tokenizer,
        pairs,
        classes=trainer_of("orpo", "ORPOConfig", "ORPOTrainer"),
        loss={"beta": training.beta},
        new_adapter=new_adapter,
        evaluation=evaluation,
    )
