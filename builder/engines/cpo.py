"""Preference training by TRL's CPO, SimPO and AlphaPO: both answers' log-probabilities, held against no reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.engines.experimental import trainer_of
from builder.engines.unreferenced import train_unreferenced
from builder.preference_rules import likelihood_weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.engines.job import Job, Trained
    from builder.stages.tokens import Pair
    from builder.train_settings import CpoTraining

__all__ = ["train_cpo"]


def train_cpo(
    job: Job,
    model: Any,  # noqa: ANN401 - TRL has no types
    tokenizer: Any,  # noqa: ANN401
    pairs: Sequence[Pair],
    *,
    training: CpoTraining,
    new_adapter: Any = None,  # noqa: ANN401
    evaluation: Sequence[Pair] | None = None,
) -> Trained:
    """Train on preferences by contrastive preference optimisation.

    Args:
        job: Settings and place.
        model: A causal model, or PEFT's wrapper of one; what requires gradients is trained, in place.
        tokenizer: Its tokenizer.
        pairs: The preferences; of each, some of both answers is within ``max_length``.
        training: The stage's ``train`` table: what is CPO's own.
        new_adapter: PEFT configuration of an adapter to put on ``model``.
        evaluation: Pairs that are not learnt, to measure the loss on.

    Raises:
        InvalidError: The best weights cannot be kept on these devices.
        MachineError: The installed TRL has no CPO, the loss is no number, or the device's memory does not do.
    """
    return train_unreferenced(
        job,
        model,
        tokenizer,
        pairs,
        classes=trainer_of("cpo", "CPOConfig", "CPOTrainer"),
        loss={
            "loss_type": training.loss,
            "beta": training.beta,
            "label_smoothing": training.label_smoothing,
            "cpo_alpha": likelihood_weight(training),
            "simpo_gamma": training.simpo_gamma,
            "alpha": training.alpha,
        },
        new_adapter=new_adapter,
        evaluation=evaluation,
    )
