"""Prompts with what is to be learnt after them, as token ids with labels. No torch; a tokenizer is given.

Texts are laid together as they are, for models without a chat template; messages go through the template, which needs
no marks: what the prompt and the whole have in common is the prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.stages.templates import Chat
from builder.stages.tokens import (
    common_prefix,
    label_rows,
    place_of,
    render_tokens,
    require_template,
    tokenize_answer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.stages.tokens import Encoded

__all__ = ["encode_completions"]


def encode_completions(
    tokenizer: Any,  # noqa: ANN401 - no types to be had
    rows: Sequence[Mapping[str, Any]],
    *,
    completion_only: bool,
    max_length: int,
    where: str,
    places: Sequence[str] = (),
) -> Encoded:
    """Tokenize prompts and completions; an end token follows a completion that is text.

    Args:
        tokenizer: A transformers tokenizer; with a chat template, where prompts are messages.
        rows: Rows with ``prompt`` and ``completion``, all texts or all messages.
        completion_only: Take the loss on the completion only.
        max_length: Tokens of a sequence; the end of a longer one is cut off.
        where: Which data set it is, for the message.
        places: Where each row stands, for the message; by default its number in the data set.

    Raises:
        InvalidError: There is no chat template, it refuses a row or passes its limits, or no row has a token to learn.
        MachineError: The process that renders could not be started, or was killed from outside.
    """
    chats = [
        chat
        for number, row in enumerate(rows, start=1)
        if not isinstance(row["prompt"], str)
        for chat in _chats(row, place_of(number, places, where))
    ]
    if chats:
        require_template(tokenizer, where=where)
    rendered = iter(render_tokens(tokenizer, chats))

    def labelled() -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        for row in rows:
            if isinstance(row["prompt"], str):
                prompt, whole = (tokenize_answer(tokenizer, row, name) for name in ("prompt", "completion"))
            else:
                prompt, whole = next(rendered).ids, next(rendered).ids
            start = common_prefix(prompt, whole) if completion_only else 0
            yield whole, [0] * start + [1] * (len(whole) - start)

    return label_rows(labelled(), max_length=max_length, where=where)


def _chats(row: Mapping[str, Any], where: str) -> Iterator[Chat]:
    """The prompt, opened for an answer, and the whole."""
    yield Chat(messages=row["prompt"], where=where, opened=True)
    yield Chat(messages=[*row["prompt"], *row["completion"]], where=where)
