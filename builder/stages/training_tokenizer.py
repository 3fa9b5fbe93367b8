"""The tokenizer of a model that is to be trained, once it is known that a training can use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.canonical import decode
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["open_training_tokenizer"]


def open_training_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers has no types
    """The tokenizer of a model folder; one without a token for padding is padded with its end token, by the trainers.

    Raises:
        InvalidError: There is none, it has no end token, or it has tokens that the model has no rows for.
    """
    from builder.stages.models import open_tokenizer  # noqa: PLC0415 - transformers reads what start() has set

    tokenizer = open_tokenizer(folder)
    if tokenizer.eos_token_id is None:
        raise InvalidError(
            "the tokenizer has no end token, so answers cannot be ended",
            where=str(folder),
            mend="use a base whose tokenizer_config.json names an eos_token",
        )
    rows, highest = _rows(folder), max(tokenizer.get_vocab().values(), default=-1)
    if rows is not None and highest >= rows:
        raise InvalidError(
            f"the tokenizer has tokens up to number {highest}, the model has rows for {rows}",
            where=f"{folder}/config.json: vocab_size",
            mend="use the tokenizer that the model came with, or add rows in a stage of kind graft, by `vocabulary:`",
        )
    return tokenizer


def _rows(folder: Path) -> int | None:
    """Rows of the embedding, as config.json says; ``None`` where it does not."""
    path = folder / "config.json"
    config = decode(path.read_bytes(), where=str(path)) if path.is_file() else None
    inner = config.get("text_config", config) if isinstance(config, dict) else None
    found = inner.get("vocab_size") if isinstance(inner, dict) else None
    return found if isinstance(found, int) else None
