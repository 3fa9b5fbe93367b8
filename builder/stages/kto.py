"""``kto``: training on answers that are good or not; whole models, components, new adapters, adapters that go on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from builder.stages.answers import encode_answers, split_pairs
from builder.stages.data_rows import evaluation_rows, training_rows
from builder.stages.subject import open_subject
from builder.stages.trained import finish
from builder.stages.training import check_length, make_job, positions, start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.stage import Context, Outcome
    from builder.stages.answers import Answer, EncodedAnswers
    from builder.stages.data_rows import DataRows
    from builder.train_stages import KtoStage

__all__ = ["kto"]


def kto(context: Context[KtoStage]) -> Outcome:
    """Train on single answers, by Kahneman-Tversky optimisation.

    The reference is what ``from`` names, as it came: the model, or the model with its adapter. A preference counts as
    two rows, a good one and one that is not.

    Raises:
        InvalidError: Rows, selector or chat template do not do.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    stage, data = context.settings, training_rows(context)
    device = start(context)
    from builder.engines.kto import train_kto  # noqa: PLC0415
    from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set

    with quiet():
        subject = open_subject(context, device)
        limit = stage.train.max_length
        encoded, held = _encode(data, subject.tokenizer, limit), evaluation_rows(context)
        answers, longest = encoded.answers, max(answer.tokens(limit) for answer in encoded.answers)
        check_length(subject.model, longest, data)
        measured = None if held is None else _encode(held, subject.tokenizer, limit)
        if held is not None and measured is not None:
            check_length(subject.model, max(answer.tokens(limit) for answer in measured.answers), held)
        # Each row is worked on twice: with its own answer, and with that of the row before it, which may be longer than
        # both rows are, and is cut where the model ends.
        training = replace(stage.train, max_length=min(limit, positions(subject.model) or limit))
        row_tokens = longest + _longest_crossed(answers, training.max_length)
        job = make_job(context, device, training, rows=len(answers), row_tokens=row_tokens, model=subject.model)
        trained = train_kto(
            job,
            subject.model,
            subject.tokenizer,
            answers,
            training=training,
            new_adapter=subject.new_adapter,
            evaluation=measured.answers if measured else None,
        )
        notes = (*data.notes, *encoded.notes(), *(measured.notes("held-out rows") if measured else ()))
        return finish(context, "kto", subject, trained, job, notes=notes)


def _longest_crossed(answers: Sequence[Answer], limit: int) -> int:
    """Tokens of the longest prompt with the longest answer, cut at a length: which rows meet is not known yet."""
    longest = max(len(one.prompt) for one in answers) + max(len(one.completion) for one in answers)
    return min(longest, limit)


def _encode(data: DataRows, tokenizer: Any, limit: int) -> EncodedAnswers:  # noqa: ANN401 - transformers has no types
    """Rows as answers; a preference is two of them."""
    paired = data.format == "preference"
    rows, places = split_pairs(data.rows, data.places) if paired else (data.rows, data.places)
    return encode_answers(tokenizer, rows, places, max_length=limit, where=data.source)
