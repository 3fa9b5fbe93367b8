"""Supervised training by TRL: labelled sequences, in an order of our own and not that of a sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from builder.engines.arguments import arguments
from builder.engines.compiling import LENGTHS
from builder.engines.evaluation import measured, measuring
from builder.engines.loop import run
from builder.engines.packed import PackedRows
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
    loss: str = "nll",
    new_adapter: Any = None,  # noqa: ANN401
    evaluation: Sequence[Example] | None = None,
) -> Trained:
    """Train on labelled sequences.

    Args:
        job: Settings and place.
        model: A causal model, or PEFT's wrapper of one; what requires gradients is trained, in place.
        tokenizer: Its tokenizer, for the padding.
        examples: Sequences with labels.
        packed: Whether an example may hold several rows, which must not see each other.
        loss: ``nll``, or ``dft``, which weighs the loss of each token by its probability.
        new_adapter: PEFT configuration of an adapter to put on ``model``.
        evaluation: Sequences that are not learnt, to measure the loss on, packed as the others; the job's ``training``
            then says when.

    Raises:
        InvalidError: The best weights cannot be kept on these devices.
        MachineError: The loss is no number, or the device's memory does not do.
    """
    lengths = [len(example.input_ids) for example in examples]
    visits = visit_order(len(examples), visits=job.steps * job.training.batch, seed=job.training.seed)
    order = by_length(visits, lengths, batch=job.training.batch)
    multiple = LENGTHS if job.split.compiled else None
    fill = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **arguments(job),
            **measuring(job, evaluation),
            loss_type=loss,
            max_length=None,
            pad_to_multiple_of=multiple,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        data_collator=PackedRows(pad_token_id=fill, multiple=multiple or 1) if packed else None,
        train_dataset=_table(examples, packed=packed).select(order),
        eval_dataset=_table(evaluation, packed=packed) if evaluation else None,
        processing_class=tokenizer,
        peft_config=new_adapter,
    )
    rows = [examples[row].rows for row in order]
    return run(trainer, job, tokens=[lengths[row] for row in order], rows=rows, measured=measured(job, evaluation))


def _table(examples: Sequence[Example], *, packed: bool) -> Dataset:
    columns = {
        "input_ids": [example.input_ids for example in examples],
        "labels": [example.labels for example in examples],
    }
    if packed:
        columns["seq_lengths"] = [example.lengths for example in examples]
    return Dataset.from_dict(columns)
