"""``sft``: training on conversations or texts; whole models, chosen components, new adapters, adapters that go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.stages.data_rows import evaluation_rows, training_rows
from builder.stages.subject import open_subject
from builder.stages.supervised import encode_supervised
from builder.stages.trained import finish
from builder.stages.training import check_length, make_job, start
from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.stage import Context, Outcome
    from builder.stages.subject import Subject
    from builder.stages.tokens import Encoded
    from builder.train_stages import SftStage

__all__ = ["sft"]


def sft(context: Context[SftStage]) -> Outcome:
    """Train on conversations or texts.

    Raises:
        InvalidError: Rows, selector or chat template do not do.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    stage, data = context.settings, training_rows(context)
    device = start(context)
    from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set
    from builder.engines.sft import train_sft  # noqa: PLC0415

    with quiet():
        subject = open_subject(context, device)
        encoded = encode_supervised(subject.tokenizer, data, stage.train)
        check_length(subject.model, max(max(example.lengths) for example in encoded.examples), data)
        examples, longest = encoded.examples, max(len(example.input_ids) for example in encoded.examples)
        held = _held(context, subject, stage)
        if stage.train.packing:
            _check_packing(subject.model)
        job = make_job(
            context,
            device,
            stage.train,
            rows=len(examples),
            row_tokens=longest,
            model=subject.model,
            lengths=[len(one.input_ids) for one in examples],
        )
        trained = train_sft(
            job,
            subject.model,
            subject.tokenizer,
            examples,
            packed=stage.train.packing,
            loss=stage.train.loss,
            new_adapter=subject.new_adapter,
            evaluation=held.examples if held else None,
        )
        notes = (
            *data.notes,
            *encoded.notes(),
            *(held.notes("held-out rows") if held else ()),
            *_unlearnt_end(subject.tokenizer, encoded),
        )
        return finish(context, "sft", subject, trained, job, notes=notes)


def _check_packing(model: Any) -> None:  # noqa: ANN401 - transformers has no types
    """Refuse to pack rows for a model in which they would see each other."""
    from builder.engines.packed import keeps_parts_apart  # noqa: PLC0415 - torch, once start() has set it up

    if not keeps_parts_apart(model):
        raise InvalidError(
            f"rows packed into one sequence would see each other: a model of type {model.config.model_type!r} does not "
            "keep them apart",
            where="train.packing",
            mend="write `packing: false`",
        )


def _held(context: Context[SftStage], subject: Subject, stage: SftStage) -> Encoded | None:
    """The rows that are not learnt, as sequences."""
    rows = evaluation_rows(context)
    if rows is None:
        return None
    encoded = encode_supervised(subject.tokenizer, rows, stage.train)
    check_length(subject.model, max(max(example.lengths) for example in encoded.examples), rows)
    return encoded


def _unlearnt_end(tokenizer: Any, encoded: Encoded) -> tuple[str, ...]:  # noqa: ANN401 - transformers has no types
    """A model that is never shown where an answer ends may never stop; its loss does not tell."""
    if any(tokenizer.eos_token_id in example.labels for example in encoded.examples):
        return ()
    return (f"the end token {tokenizer.eos_token} is never learnt: no row has it among its labels",)
