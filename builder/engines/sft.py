"""Supervised training by TRL: labelled sequences, in an order of our own and not that of a sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from builder.engines.arguments import arguments
from builder.engines.loop import run
from builder.engines.schedule import by_length, visit_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.engines.job import Job, Trained
    from builder.stages.tokens import Example

__all__ = ["train_sft"]


def train_sft(
    job: Job,
    model: Any,  # noqa: ANN401 - TRL has no types
    tokenizer: Any,  # noqa: ANN401
    examples: Sequence[Example],
    *,
    packed: bool = False,
    new_adapter: Any = None,  # noqa: ANN401
) -> Trained:
    """Train on labelled sequences.

    Args:
        job: Settings and place.
        model: A causal model, or PEFT's wrapper of one; what requires gradients is trained, in place.
        tokenizer: Its tokenizer, for the padding.
        examples: Sequences with labels.
        packed: Whether an example may hold several rows, which must not see each other.
        new_adapter: PEFT configuration of an adapter to put on ``model``.

    Raises:
        MachineError: The loss is no number, or the device's memory does not do.
    """
    lengths = [len(example.input_ids) for example in examples]
    visits = visit_order(len(examples), visits=job.steps * job.training.batch, seed=job.training.seed)
    order = by_length(visits, lengths, batch=job.training.batch)
    columns = {
        "input_ids": [example.input_ids for example in examples],
        "labels": [example.labels for example in examples],
    }
    if packed:
        columns["seq_lengths"] = [example.lengths for example in examples]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **arguments(job), packing=packed, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}
        ),
        train_dataset=Dataset.from_dict(columns).select(order),
        processing_class=tokenizer,
        peft_config=new_adapter,
    )
    return run(trainer, job, tokens=sum(lengths[row] for row in order))
