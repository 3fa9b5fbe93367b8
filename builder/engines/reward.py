"""Training of a model that scores answers, by TRL: of each preference, the better one is to score higher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from builder.engines.arguments import arguments
from builder.engines.evaluation import measured, measuring
from builder.engines.loop import run
from builder.engines.pairs import order_of
from builder.engines.rendered import reader_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.engines.job import Job, Trained
    from builder.stages.tokens import Pair
    from builder.train_settings import RewardTraining

__all__ = ["train_reward"]


def train_reward(
    job: Job,
    model: Any,  # noqa: ANN401 - TRL has no types
    tokenizer: Any,  # noqa: ANN401
    pairs: Sequence[Pair],
    *,
    training: RewardTraining,
    new_adapter: Any = None,  # noqa: ANN401
    evaluation: Sequence[Pair] | None = None,
) -> Trained:
    """Train a score on preferences.

    Args:
        job: Settings and place.
        model: A classifier with one label, or PEFT's wrapper of one; what requires gradients is trained, in place.
        tokenizer: Its tokenizer, for the padding.
        pairs: The preferences; both sequences of each are within ``max_length``.
        training: The stage's ``train`` table: what is a reward's own.
        new_adapter: PEFT configuration of an adapter to put on ``model``.
        evaluation: Pairs that are not learnt, to measure the loss on.

    Raises:
        InvalidError: The best weights cannot be kept on these devices.
        MachineError: The loss is no number, or the device's memory does not do.
    """
    order = order_of(job, pairs)
    reader = reader_of(tokenizer)
    # The score is read at the last token that is no padding, as the model's own configuration names that.
    reader.pad_token = reader.convert_ids_to_tokens(model.config.get_text_config().pad_token_id)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            **arguments(job),
            **measuring(job, evaluation),
            max_length=None,  # what is longer is left out before
            center_rewards_coefficient=training.center_rewards_coefficient or None,
        ),
        train_dataset=_table(pairs).select(order),
        eval_dataset=_table(evaluation) if evaluation else None,
        processing_class=reader,
        peft_config=new_adapter,
    )
    tokens = [pairs[row].tokens(training.max_length) for row in order]
    numbers = [pairs[row].rows for row in order]
    return run(trainer, job, tokens=tokens, rows=numbers, measured=measured(job, evaluation))


def _table(pairs: Sequence[Pair]) -> Dataset:
    return Dataset.from_dict(
        {
            "chosen_ids": [[*pair.prompt, *pair.chosen] for pair in pairs],
            "rejected_ids": [[*pair.prompt, *pair.rejected] for pair in pairs],
        }
    )
