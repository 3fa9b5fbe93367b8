"""Continued pre-training: more text, laid end to end, for a model, chosen components of it, or an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.stages.data_rows import evaluation_rows, training_rows
from builder.stages.packing import join_texts
from builder.stages.subject import open_subject
from builder.stages.trained import finish
from builder.stages.training import check_length, make_job, start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.stage import Context, Outcome
    from builder.stages.tokens import Example
    from builder.train_stages import PretrainStage

__all__ = ["go_on", "held_texts"]


def go_on(context: Context[PretrainStage]) -> Outcome:
    """Go on training what ``from`` names on texts laid end to end, an end token after each.

    Raises:
        InvalidError: The texts are too few, a sequence is longer than the model reads, or the selector does not do.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    stage, data = context.settings, training_rows(context)
    device = start(context)
    from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set
    from builder.engines.sft import train_sft  # noqa: PLC0415

    length = stage.train.max_length
    with quiet():
        subject = open_subject(context, device)
        check_length(subject.model, length, data)
        texts = [str(row["text"]) for row in data.rows]
        encoded = join_texts(subject.tokenizer, texts, max_length=length, where=data.source)
        examples = encoded.examples
        job = make_job(context, device, stage.train, rows=len(examples), row_tokens=length, model=subject.model)
        trained = train_sft(
            job,
            subject.model,
            subject.tokenizer,
            examples,
            new_adapter=subject.new_adapter,
            evaluation=held_texts(context, subject.tokenizer),
        )
        return finish(context, "pretrain", subject, trained, job, notes=(*data.notes, *encoded.notes()))


def held_texts(context: Context[PretrainStage], tokenizer: Any) -> Sequence[Example] | None:  # noqa: ANN401 - no types
    """The texts that are not learnt, laid end to end as the others; ``None`` where nothing is measured.

    Args:
        context: The stage.
        tokenizer: A transformers tokenizer.

    Raises:
        InvalidError: A row is faulty, or all of them together are shorter than one sequence.
    """
    rows = evaluation_rows(context)
    if rows is None:
        return None
    texts = [str(row["text"]) for row in rows.rows]
    return join_texts(tokenizer, texts, max_length=context.settings.train.max_length, where=rows.source).examples
