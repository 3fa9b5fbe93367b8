"""What the kinds share that learn from preferences without a reference: rows to pairs, pairs to a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from builder.stages.data_rows import evaluation_rows
from builder.stages.subject import open_subject
from builder.stages.tokens import encode_pairs
from builder.stages.trained import finish
from builder.stages.training import check_length, make_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.engines.job import Job, Trained
    from builder.environment import Device
    from builder.stage import Context, Outcome
    from builder.stages.data_rows import DataRows
    from builder.stages.subject import Subject
    from builder.stages.tokens import EncodedPairs, Pair

__all__ = ["held_pairs", "train_on_pairs"]


class _Train(Protocol):
    """An engine's function."""

    def __call__(
        self,
        job: Job,
        model: Any,  # noqa: ANN401 - TRL has no types
        tokenizer: Any,  # noqa: ANN401
        pairs: Sequence[Pair],
        *,
        training: Any,  # noqa: ANN401 - each kind has its own table
        new_adapter: Any,  # noqa: ANN401
        evaluation: Sequence[Pair] | None,
    ) -> Trained: ...


def train_on_pairs(context: Context[Any], data: DataRows, device: Device, train: _Train) -> Outcome:
    """Train on preferences.

    Args:
        context: The stage.
        data: Its rows.
        device: Where the arithmetic happens.
        train: The engine's function.

    Raises:
        InvalidError: Rows, selector or chat template do not do.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set

    training = context.settings.train
    limit = training.max_length
    with quiet():
        subject = open_subject(context, device)
        encoded = encode_pairs(subject.tokenizer, data.rows, max_length=limit, where=data.source, places=data.places)
        pairs, longest = encoded.pairs, max(pair.longest(limit) for pair in encoded.pairs)
        check_length(subject.model, longest, data)
        held = held_pairs(context, subject, limit)
        job = make_job(context, device, training, rows=len(pairs), row_tokens=2 * longest, model=subject.model)
        trained = train(
            job,
            subject.model,
            subject.tokenizer,
            pairs,
            training=training,
            new_adapter=subject.new_adapter,
            evaluation=held.pairs if held else None,
        )
        notes = (*data.notes, *encoded.notes(), *(held.notes("held-out rows") if held else ()))
        return finish(context, context.settings.kind, subject, trained, job, notes=notes)


def held_pairs(context: Context[Any], subject: Subject, limit: int) -> EncodedPairs | None:
    """The pairs that are not learnt, to measure the loss on; ``None`` where nothing is measured.

    Args:
        context: The stage.
        subject: What is trained.
        limit: Tokens of prompt and answer; the end of a longer answer is cut off.

    Raises:
        InvalidError: A row is faulty or longer than the model's positions, or no pair is left.
    """
    rows = evaluation_rows(context)
    if rows is None:
        return None
    found = encode_pairs(subject.tokenizer, rows.rows, max_length=limit, where=rows.source, places=rows.places)
    check_length(subject.model, max(pair.longest(limit) for pair in found.pairs), rows)
    return found
