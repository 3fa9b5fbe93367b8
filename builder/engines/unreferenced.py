"""Preference training without a reference, by a trainer that TRL has as an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.engines.arguments import arguments
from builder.engines.evaluation import measured, measuring
from builder.engines.experimental import reads_tokens
from builder.engines.loop import run
from builder.engines.pairs import held_out, order_of, sequences
from builder.engines.rendered import reader_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.engines.job import Job, Trained
    from builder.stages.tokens import Pair

__all__ = ["train_unreferenced"]


def train_unreferenced(
    job: Job,
    model: Any,  # noqa: ANN401 - TRL has no types
    tokenizer: Any,  # noqa: ANN401
    pairs: Sequence[Pair],
    *,
    classes: tuple[Any, Any],
    loss: Mapping[str, Any],
    new_adapter: Any = None,  # noqa: ANN401
    evaluation: Sequence[Pair] | None = None,
) -> Trained:
    """Train on preferences by both answers alone.

    Args:
        job: Settings and place.
        model: A causal model, or PEFT's wrapper of one; what requires gradients is trained, in place.
        tokenizer: Its tokenizer.
        pairs: The preferences; of each, some of both answers is within ``max_length``.
        classes: Configuration and trainer, from :func:`builder.engines.experimental.trainer_of`.
        loss: What the configuration is told of the loss.
        new_adapter: PEFT configuration of an adapter to put on ``model``.
        evaluation: Pairs that are not learnt, to measure the loss on.

    Raises:
        InvalidError: The best weights cannot be kept on these devices.
        MachineError: The loss is no number, or the device's memory does not do.
    """
    config, trainer_class = classes
    longest = job.training.max_length
    order = order_of(job, pairs)
    trainer = reads_tokens(trainer_class)(
        model=model,
        args=config(
            **arguments(job), **measuring(job, evaluation), **loss, max_length=longest, remove_unused_columns=False
        ),
        train_dataset=sequences(pairs, order, max_length=longest),
        eval_dataset=held_out(evaluation, max_length=longest),
        processing_class=reader_of(tokenizer),
        peft_config=new_adapter,
    )
    tokens = [pairs[row].tokens(longest) for row in order]
    numbers = [pairs[row].rows for row in order]
    return run(trainer, job, tokens=tokens, rows=numbers, measured=measured(job, evaluation))
