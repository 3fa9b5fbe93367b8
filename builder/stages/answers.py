"""Answers that are good or not, as token ids: one prompt and one answer a row; a preference is two rows. No torch.

The rendering is that of ``builder.stages.tokens``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.stages.templates import Chat
from builder.stages.tokens import render_tokens, require_template
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Answer", "EncodedAnswers", "encode_answers", "split_pairs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        prompt: Token ids before the first token of the answer.
        completion: Token ids of the answer, its end token with it.
        label: Whether it is a good one.
        rows: Number of its row, from 1, for messages.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    label: bool
    rows: tuple[int, ...] = ()

    def tokens(self, max_length: int) -> int:
        """Tokens of prompt and answer, cut at ``max_length``."""
        return min(len(self.prompt) + len(self.completion), max_length)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedAnswers:
    """Answers as token ids.

    Attributes:
        answers: Those with some of the answer within the length.
        truncated: Answers that lost their end.
        silent: Rows left out, since the prompt alone fills the length.
    """

    answers: tuple[Answer, ...]
    truncated: int
    silent: int

    def notes(self, what: str = "rows") -> tuple[str, ...]:
        """What a reader of the record should know of these rows."""
        good = sum(answer.label for answer in self.answers)
        notes = [f"of the {what}, {good} are good answers and {len(self.answers) - good} are not"]
        if self.truncated:
            notes.append(f"{self.truncated} {what} were longer than max_length and lost their end")
        if self.silent:
            notes.append(f"{self.silent} {what} were left out: the prompt alone fills max_length")
        return tuple(notes)


def split_pairs(rows: Sequence[Mapping[str, Any]], places: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Each preference as two answers, the better one first.

    Args:
        rows: Rows with ``prompt``, ``chosen`` and ``rejected``.
        places: Where each stands, for messages.

    Returns:
        Rows with ``prompt``, ``completion`` and ``label``, and where each stands.
    """
    found = [
        {"prompt": row["prompt"], "completion": row[name], "label": name == "chosen"}
        for row in rows
        for name in ("chosen", "rejected")
    ]
    return found, [f"{place}, {name}" for place in places for name in ("chosen", "rejected")]


def encode_answers(
    tokenizer: Any,  # noqa: ANN401 - no types to be had
    rows: Sequence[Mapping[str, Any]],
    places: Sequence[str],
    *,
    max_length: int,
    where: str,
) -> EncodedAnswers:
    """Render and tokenize answers.

    Texts are taken as they are, with the end token after the answer; messages go through the chat template.

    Args:
        tokenizer: A transformers tokenizer.
        rows: Rows with ``prompt``, ``completion`` and ``label``.
        places: Where each stands, for messages.
        max_length: Tokens of prompt and answer; the end of a longer answer is cut off.
        where: Which data set it is, for the message.

    Raises:
        InvalidError: There is no chat template, it refuses a row or passes its limits, or no row is left.
        MachineError: The process that renders could not be started, or was killed from outside.
    """
    every = list(_tokenized(tokenizer, rows, places, where))
    answers = tuple(one for one in every if len(one.prompt) < max_length)
    if not answers:
        raise InvalidError(
            f"all {len(every)} prompts fill {max_length} tokens by themselves, so no answer is left to learn from",
            where=where,
            mend="raise max_length",
        )
    truncated = sum(len(one.prompt) + len(one.completion) > max_length for one in answers)
    return EncodedAnswers(answers=answers, truncated=truncated, silent=len(every) - len(answers))


def _tokenized(
    tokenizer: Any,  # noqa: ANN401 - no types to be had
    rows: Sequence[Mapping[str, Any]],
    places: Sequence[str],
    where: str,
) -> Iterator[Answer]:
    """Prompt and answer of each row; the messages of all rows are rendered in one go."""
    chats = [chat for row, place in zip(rows, places, strict=True) for chat in _chats(row, place)]
    if chats:
        require_template(tokenizer, where=where)
    rendered = iter(render_tokens(tokenizer, chats))
    for number, row in enumerate(rows, start=1):
        if isinstance(row["prompt"], str):
            answer = row["completion"]
            answer += "" if answer.endswith(tokenizer.eos_token) else tokenizer.eos_token
            prompt, whole = (tokenizer(one)["input_ids"] for one in (row["prompt"], row["prompt"] + answer))
        else:
            opened, answered = next(rendered), next(rendered)
            prompt, whole = opened.ids, answered.ids
        start = _common(prompt, whole)
        yield Answer(
            prompt=tuple(whole[:start]),
            completion=tuple(whole[start:]),
            label=row["label"],
            rows=(number,),
        )


def _chats(row: Mapping[str, Any], place: str) -> Iterator[Chat]:
    """The prompt, opened for an answer, and the prompt with it; none for a row of texts."""
    if isinstance(row["prompt"], str):
        return
    yield Chat(messages=row["prompt"], where=place, opened=True)
    yield Chat(messages=[*row["prompt"], *row["completion"]], where=place)


def _common(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """Length of the prefix that both have."""
    pairs = enumerate(zip(prompt, whole, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(prompt), len(whole)))
