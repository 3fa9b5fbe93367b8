"""Rows to learn from as labelled sequences: conversations, prompts with completions, texts; packed where asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from builder.stages.completions import encode_completions
from builder.stages.packing import pack
from builder.stages.tokens import encode_messages, encode_texts
from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.stages.data_rows import DataRows
    from builder.stages.tokens import Encoded
    from builder.train_settings import SftTraining

__all__ = ["encode_supervised"]


def encode_supervised(tokenizer: Any, data: DataRows, training: SftTraining) -> Encoded:  # noqa: ANN401 - no types
    """Rows as a supervised training learns them.

    Args:
        tokenizer: A transformers tokenizer.
        data: The rows.
        training: The stage's ``train`` table.

    Raises:
        InvalidError: Texts are to be learnt as an assistant's, the chat template does not do, or nothing is left.
        MachineError: The process that renders could not be started, or was killed from outside.
    """
    encoded = _encoded(tokenizer, data, training)
    return pack(encoded, max_length=training.max_length) if training.packing else encoded


def _encoded(tokenizer: Any, data: DataRows, training: SftTraining) -> Encoded:  # noqa: ANN401 - no types
    assistant_only = training.loss_on == "assistant"
    match data.format:
        case "text" if assistant_only:
            raise InvalidError(
                "texts have no assistant turns to take the loss on",
                where=f"train.loss_on, with {data.source}",
                mend="write `train: {loss_on: all}`",
            )
        case "text":
            texts = [str(row["text"]) for row in data.rows]
            return encode_texts(tokenizer, texts, max_length=training.max_length, where=data.source)
        case "completion":
            return encode_completions(
                tokenizer,
                data.rows,
                completion_only=assistant_only,
                max_length=training.max_length,
                where=data.source,
                places=data.places,
            )
        case _:
            return encode_messages(
                tokenizer,
                cast("list[list[dict[str, str]]]", [row["messages"] for row in data.rows]),
                assistant_only=assistant_only,
                max_length=training.max_length,
                where=data.source,
                places=data.places,
            )
