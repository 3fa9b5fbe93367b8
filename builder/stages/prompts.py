"""Prompts of a data set as a model is asked them: rendered, counted in tokens, those too long left out. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.stages.templates import Chat
from builder.stages.tokens import render_tokens, require_template
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["EncodedPrompts", "Prompt", "encode_prompts"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt.

    Attributes:
        row: Number of its row, from 0.
        asked: What the trainer gets: a text; or, where it was messages, one message whose content is the conversation
            as the chat template renders it, opened for an answer.
        length: In tokens.
    """

    row: int
    asked: str | list[dict[str, str]]
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPrompts:
    """The prompts that leave room for an answer.

    Attributes:
        prompts: In the order of their rows.
        silent: How many were left out.
        room: Most tokens that a prompt may have.
    """

    prompts: tuple[Prompt, ...]
    silent: int
    room: int

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return max(prompt.length for prompt in self.prompts)

    def notes(self) -> tuple[str, ...]:
        """What a reader of the record should know."""
        if not self.silent:
            return ()
        return (f"{self.silent} prompts were left out: more than {self.room} tokens leave no room for an answer",)


def encode_prompts(
    tokenizer: Any,  # noqa: ANN401 - no types to be had
    rows: Sequence[Mapping[str, Any]],
    *,
    room: int,
    where: str,
    places: Sequence[str],
) -> EncodedPrompts:
    """Render and count prompts.

    Texts are taken as they are, with the special tokens that the tokenizer puts before a text; messages go through the
    chat template.

    Args:
        tokenizer: A transformers tokenizer; with a chat template, where prompts are messages.
        rows: Rows of format ``prompts``, all texts or all messages.
        room: Most tokens of a prompt.
        where: Which data set it is, for messages.
        places: Where each row stands, for messages.

    Raises:
        InvalidError: There is no template, it refuses a row, or no prompt is short enough.
        MachineError: The process that renders could not be started, or was killed from outside.
    """
    chats = [
        Chat(messages=row["prompt"], where=place, opened=True)
        for row, place in zip(rows, places, strict=True)
        if not isinstance(row["prompt"], str)
    ]
    if chats:
        require_template(tokenizer, where=where)
    rendered = iter(render_tokens(tokenizer, chats))
    prompts: list[Prompt] = []
    for number, row in enumerate(rows):
        asked: str | list[dict[str, str]] = row["prompt"]
        if isinstance(asked, str):
            length = len(tokenizer(asked)["input_ids"])
        else:
            one = next(rendered)
            asked, length = [{"role": "user", "content": one.text}], len(one.ids)
        if 0 < length <= room:
            prompts.append(Prompt(row=number, asked=asked, length=length))
    if not prompts:
        raise InvalidError(
            f"none of the {len(rows)} prompts has from 1 to {room} tokens",
            where=where,
            mend="raise train.max_length, or lower train.max_completion_length",
        )
    return EncodedPrompts(prompts=tuple(prompts), silent=len(rows) - len(prompts), room=room)
