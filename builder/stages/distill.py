"""``distill``: a student learns a teacher's distribution of the next token; on its own answers, or on rows of data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from builder.stages.data_rows import training_rows
from builder.stages.online import sampled_figures
from builder.stages.prompts import encode_prompts
from builder.stages.subject import open_subject
from builder.stages.supervised import encode_supervised
from builder.stages.trained import finish
from builder.stages.training import check_length, make_job, start
from builder.train_settings import SftTraining
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.engines.job import Job, Trained
    from builder.environment import Device
    from builder.stage import Context, Outcome
    from builder.stages.data_rows import DataRows
    from builder.train_stages import DistillStage

__all__ = ["check_tokens", "distill"]


def distill(context: Context[DistillStage]) -> Outcome:
    """Bring a student closer to a teacher.

    Raises:
        InvalidError: The teacher has other tokens; rows, selector or chat template do not do.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    stage, rows = context.settings, training_rows(context)
    device = start(context)
    from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set

    with quiet():
        subject = open_subject(context, device)
        teacher = _teacher(context, device, subject.tokenizer, subject.model)
        work = _on_answers if rows.format == "prompts" else _on_rows
        count, longest, notes, train = work(context, subject.tokenizer, rows)
        check_length(subject.model, longest, rows)
        check_length(teacher, longest, rows)
        job = make_job(context, device, stage.train, rows=count, row_tokens=longest, model=subject.model)
        trained = train(
            job,
            model=subject.model,
            teacher=teacher,
            tokenizer=subject.tokenizer,
            training=stage.train,
            new_adapter=subject.new_adapter,
        )
        outcome = finish(context, "distill", subject, trained, job, notes=(*rows.notes, *notes))
    return replace(outcome, metrics={**outcome.metrics, **sampled_figures(trained.history)})


def check_tokens(student: Mapping[str, int], teacher: Mapping[str, int], *, where: str) -> None:
    """Refuse a teacher whose token ids mean something else than the student's.

    Args:
        student: Token ids by token.
        teacher: The same of the teacher.
        where: The teacher, for the message.

    Raises:
        InvalidError: A token has another id, or only one of them has it.
    """
    differing = sorted(token for token in student.keys() | teacher.keys() if student.get(token) != teacher.get(token))
    if differing:
        token = differing[0]
        raise InvalidError(
            f"teacher and student have {len(differing)} tokens that differ; the first is {token!r:.60}, "
            f"{student.get(token, 'none')} of the student and {teacher.get(token, 'none')} of the teacher",
            where=where,
            mend="choose a teacher with the student's tokenizer",
        )


def _teacher(context: Context[DistillStage], device: Device, tokenizer: Any, student: Any) -> Any:  # noqa: ANN401
    """The teacher, once its tokens are those of the student."""
    from builder.stages.models import open_model, open_tokenizer  # noqa: PLC0415 - transformers reads what start() set

    source = context.one("teacher")
    where = f"teacher: {source.name}"
    check_tokens(tokenizer.get_vocab(), open_tokenizer(source.path).get_vocab(), where=where)
    teacher = open_model(
        source.path, device, dtype="float32" if context.settings.train.precision == "float32" else "auto"
    )
    rows = [one.config.get_text_config().vocab_size for one in (student, teacher)]
    if rows[0] != rows[1]:
        raise InvalidError(
            f"the student's head has {rows[0]} rows, the teacher's {rows[1]}",
            where=where,
            mend="bring both to one number of rows, in a stage of kind graft with `vocabulary`",
        )
    return teacher.requires_grad_(requires_grad=False)


_Work = tuple[int, int, tuple[str, ...], "Callable[..., Trained]"]


def _on_answers(context: Context[DistillStage], tokenizer: Any, rows: DataRows) -> _Work:  # noqa: ANN401
    """Rows, longest sequence, notes and the training, where the student answers."""
    from builder.engines.distill import train_on_answers  # noqa: PLC0415 - the libraries read what start() has set

    training = context.settings.train
    room = training.max_length - training.max_completion_length
    encoded = encode_prompts(tokenizer, rows.rows, room=room, where=rows.source, places=rows.places)

    def train(job: Job, **given: Any) -> Trained:  # noqa: ANN401 - TRL has no types
        return train_on_answers(job, encoded.prompts, **given)

    return len(encoded.prompts), encoded.longest + training.max_completion_length, encoded.notes(), train


def _on_rows(context: Context[DistillStage], tokenizer: Any, rows: DataRows) -> _Work:  # noqa: ANN401
    """Rows, longest sequence, notes and the training, where the sequences are those of the data."""
    from builder.engines.distill import train_on_rows  # noqa: PLC0415 - the libraries read what start() has set

    training = context.settings.train
    supervised = SftTraining(max_length=training.max_length, loss_on=training.loss_on)
    encoded = encode_supervised(tokenizer, rows, supervised)
    examples = encoded.examples

    def train(job: Job, **given: Any) -> Trained:  # noqa: ANN401 - TRL has no types
        return train_on_rows(job, examples, **given)

    return len(examples), max(len(one.input_ids) for one in examples), encoded.notes(), train
