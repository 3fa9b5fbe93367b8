"""``sft``: training on conversations or texts; whole models, chosen components, new adapters, adapters that go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from builder.rows import read_rows
from builder.stages.subject import open_subject
from builder.stages.tokens import encode_messages, encode_texts, pack
from builder.stages.trained import finish
from builder.stages.training import check_length, make_job, start
from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.stage import Context, Input, Outcome
    from builder.stages.tokens import Encoded
    from builder.train_stages import SftStage

__all__ = ["sft"]


def sft(context: Context[SftStage]) -> Outcome:
    """Train on conversations or texts.

    Raises:
        InvalidError: Rows, selector or chat template do not do.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    stage, data = context.settings, context.one("data")
    device = start(context)
    from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set
    from builder.engines.sft import train_sft  # noqa: PLC0415

    with quiet():
        subject = open_subject(context, device)
        encoded = _encode(subject.tokenizer, data, stage)
        check_length(subject.model, max(max(example.lengths) for example in encoded.examples), data)
        examples, longest = encoded.examples, max(len(example.input_ids) for example in encoded.examples)
        job = make_job(context, device, stage.train, rows=len(examples), row_tokens=longest, model=subject.model)
        trained = train_sft(
            job,
            subject.model,
            subject.tokenizer,
            examples,
            packed=stage.train.packing,
            new_adapter=subject.new_adapter,
        )
        return finish(
            context, "sft", subject, trained, job, notes=(*encoded.notes(), *_unlearnt_end(subject.tokenizer, encoded))
        )


def _encode(tokenizer: Any, data: Input, stage: SftStage) -> Encoded:  # noqa: ANN401 - transformers has no types
    """Rows as labelled sequences, packed where that is asked for."""
    training = stage.train
    rows = read_rows(data.path, data.format, where=data.file)
    if data.format == "text":
        if training.loss_on == "assistant":
            raise InvalidError(
                "texts have no assistant turns to take the loss on",
                where=f"train.loss_on, with {data.source}",
                mend="write `train: {loss_on: all}`",
            )
        texts = [str(row["text"]) for row in rows]
        encoded = encode_texts(tokenizer, texts, max_length=training.max_length, where=data.source)
    else:
        encoded = encode_messages(
            tokenizer,
            cast("list[list[dict[str, str]]]", [row["messages"] for row in rows]),
            assistant_only=training.loss_on == "assistant",
            max_length=training.max_length,
            where=data.source,
        )
    return pack(encoded, max_length=training.max_length) if training.packing else encoded


def _unlearnt_end(tokenizer: Any, encoded: Encoded) -> tuple[str, ...]:  # noqa: ANN401 - transformers has no types
    """A model that is never shown where an answer ends may never stop; its loss does not tell."""
    if any(tokenizer.eos_token_id in example.labels for example in encoded.examples):
        return ()
    return (f"the end token {tokenizer.eos_token} is never learnt: no row has it among its labels",)
