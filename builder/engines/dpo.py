"""Preference training by TRL's DPO, against a reference worked out before the first step, so it never moves."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from builder.engines.arguments import arguments
from builder.engines.loop import run
from builder.engines.schedule import by_length, visit_order
from registry.errors import InvalidError, MachineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.engines.job import Job, Trained
    from builder.stages.tokens import Pair
    from builder.train_settings import DpoTraining

__all__ = ["loss_of", "train_dpo"]

_AS_RENDERED = "{{ messages[-1]['content'] }}"


def train_dpo(
    job: Job,
    model: Any,  # noqa: ANN401 - TRL has no types
    tokenizer: Any,  # noqa: ANN401
    pairs: Sequence[Pair],
    *,
    training: DpoTraining,
    new_adapter: Any = None,  # noqa: ANN401
) -> Trained:
    """Train on preferences, against a reference fixed before the first step.

    The reference is ``model`` without the new adapter; or, where it is PEFT's wrapper, the adapter as it came; or,
    where its own weights are trained, the model as it came. Its log-probabilities are worked out once for each row.

    Args:
        job: Settings and place.
        model: A causal model, or PEFT's wrapper of one; what requires gradients is trained, in place.
        tokenizer: Its tokenizer.
        pairs: The preferences; of each, some of both answers is within ``max_length``.
        training: The stage's ``train`` table: what is DPO's own.
        new_adapter: PEFT configuration of an adapter to put on ``model``.

    Raises:
        InvalidError: The loss cannot be had with that label smoothing.
        MachineError: The loss is no number, or the device's memory does not do.
    """
    lengths = [pair.longest(training.max_length) for pair in pairs]
    visits = visit_order(len(pairs), visits=job.steps * training.batch, seed=training.seed)
    # The reference's pass goes over rows of like lengths, each once, and only those that are trained on.
    used = sorted(set(visits), key=lambda row: -lengths[row])
    place = {row: number for number, row in enumerate(used)}
    columns = {part: [pairs[row].text[part] for row in used] for part in ("prompt", "chosen", "rejected")}
    # Messages come rendered, in the last message of each part; the base's own template runs in no trainer.
    reader = copy(tokenizer)
    reader.chat_template = _AS_RENDERED
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            **arguments(job),
            **loss_of(training),
            beta=training.beta,
            max_length=training.max_length,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=job.split.micro_batch,
        ),
        train_dataset=Dataset.from_dict(columns),
        processing_class=reader,
        peft_config=new_adapter,
    )
    if len(trainer.train_dataset) != len(used):
        raise MachineError(
            f"the trainer keeps {len(trainer.train_dataset)} of {len(used)} pairs, so rows cannot be told apart",
            where="TRL",
            mend="lower train.max_length a little and tell us; the tokenizer cuts these prompts in another place",
        )
    order = by_length(visits, lengths, batch=training.batch)
    trainer.train_dataset = trainer.train_dataset.select([place[row] for row in order])
    return run(trainer, job, tokens=sum(pairs[row].tokens(training.max_length) for row in order))


def loss_of(training: DpoTraining) -> dict[str, Any]:
    """TRL's loss with label smoothing.

    For the sigmoid loss that is conservative DPO, ``(1 - e) S + e S'``, with S the loss of the pair and S' that of the
    pair swapped. TRL has only its robust variant, ``R = ((1 - e) S - e S') / (1 - 2 e)``, from which it follows.

    Raises:
        InvalidError: The loss has no label smoothing.
    """
    smoothing = training.label_smoothing
    if not smoothing:
        return {"loss_type": [training.loss]}
    if training.loss != "sigmoid":
        raise InvalidError(
            f"the {training.loss} loss has no label smoothing",
            where="train.label_smoothing",
            mend="write 0, or `loss: sigmoid`",
        )
    return {
        "loss_type": ["sigmoid", "robust"],
        "loss_weights": [2 * (1 - smoothing), -(1 - 2 * smoothing)],
        "label_smoothing": smoothing,
    }
