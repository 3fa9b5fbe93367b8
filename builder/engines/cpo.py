"""Preference training by TRL's CPO, SimPO and AlphaPO: both answers' log-probabilities, held against no reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.engines.arguments import arguments
from builder.engines.evaluation import measured, measuring
from builder.engines.experimental import reads_tokens, trainer_of
from builder.engines.loop import run
from builder.engines.pairs import held_out, order_of, sequences
from builder.engines.rendered import reader_of
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
    config, trainer_class = trainer_of("cpo", "CPOConfig", "CPOTrainer")
    order = order_of(job, pairs)
    trainer = reads_tokens(trainer_class)(
        model=model,
        args=config(
            **arguments(job),
            **measuring(job, evaluation),
            loss_type=training.loss,
            beta=training.beta,
            label_smoothing=training.label_smoothing,
            cpo_alpha=likelihood_weight(training),
            simpo_gamma=training.simpo_gamma,
            alpha=training.alpha,
            max_length=training.max_length,
            remove_unused_columns=False,
        ),
        train_dataset=sequences(pairs, order, max_length=training.max_length),
        eval_dataset=held_out(evaluation, max_length=training.max_length),
        processing_class=reader_of(tokenizer),
        peft_config=new_adapter,
    )
    tokens = [pairs[row].tokens(training.max_length) for row in order]
    numbers = [pairs[row].rows for row in order]
    return run(trainer, job, tokens=tokens, rows=numbers, measured=measured(job, evaluation))
