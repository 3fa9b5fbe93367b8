"""Rows of data as token ids with labels: chat templates rendered, assistant turns marked, long rows cut.

One rendering for every stage: what is trained on is what is measured. No torch; a tokenizer is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from builder.stages.marked_templates import marked_copy
from builder.stages.templates import Chat, is_marked, render
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.stages.templates import Rendered

__all__ = [
    "IGNORED",
    "Encoded",
    "EncodedPairs",
    "Example",
    "Pair",
    "common_prefix",
    "encode_messages",
    "encode_pairs",
    "encode_texts",
    "has_marks",
    "label_rows",
    "place_of",
    "plain_ids",
    "render_tokens",
    "require_template",
    "tokenize_answer",
]

IGNORED = -100
"""Label of a token that no loss is taken on, as torch's cross entropy has it."""

_COPIED = "the assistant's turns were told by the marked copy that TRL has of the chat template; it rendered the same"
_PARTS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One sequence to train on.

    Attributes:
        input_ids: Token ids.
        labels: The same ids, ``IGNORED`` where no loss is taken; a token is predicted from those before it.
        lengths: Lengths of the rows that were packed into it; one length where nothing was packed.
        rows: Numbers of the rows that it is made from, from 1, for messages.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    lengths: tuple[int, ...]
    rows: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One preference.

    Attributes:
        text: ``prompt``, ``chosen`` and ``rejected``: each a text; or, where they were messages, each one message whose
            content is the whole conversation up to there as the chat template renders it.
        prompt: Token ids before the first token in which the answers may differ.
        chosen: Token ids of the better answer, its end token with it.
        rejected: Token ids of the worse one.
        rows: Number of its row, from 1, for messages.
    """

    text: Mapping[str, str | list[dict[str, str]]]
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    rows: tuple[int, ...] = ()

    def longest(self, max_length: int) -> int:
        """Tokens of the longer sequence, cut at ``max_length``."""
        return min(len(self.prompt) + max(len(self.chosen), len(self.rejected)), max_length)

    def tokens(self, max_length: int) -> int:
        """Tokens of both sequences, cut at ``max_length``."""
        return sum(min(len(self.prompt) + len(answer), max_length) for answer in (self.chosen, self.rejected))


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedTokens:
    """A rendered conversation.

    Attributes:
        text: What the chat template made of it.
        ids: Token ids of the text, without special tokens of the tokenizer's own.
        mask: 1 where the template marks a token as the assistant's, else 0; all 0 where marks were not asked for.
    """

    text: str
    ids: Sequence[int]
    mask: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPairs:
    """Preferences as token ids.

    Attributes:
        pairs: Those with some of both answers within the length.
        truncated: Pairs of which an answer lost its end.
        silent: Pairs left out, since the prompt alone fills the length.
    """

    pairs: tuple[Pair, ...]
    truncated: int
    silent: int

    def notes(self, called: str = "rows") -> tuple[str, ...]:
        """What a reader of the record should know."""
        return _notes(self.truncated, self.silent, "the prompt alone fills max_length", called)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A data set as sequences.

    Attributes:
        examples: Sequences with at least one label.
        truncated: Rows that were longer than allowed and lost their end.
        silent: Rows left out, since no label was left in them.
        remarks: What else a reader of the record should know.
    """

    examples: tuple[Example, ...]
    truncated: int
    silent: int
    remarks: tuple[str, ...] = ()

    def notes(self, called: str = "rows") -> tuple[str, ...]:
        """What a reader of the record should know."""
        return (*self.remarks, *_notes(self.truncated, self.silent, "no token to learn from within max_length", called))


def place_of(number: int, places: Sequence[str], where: str) -> str:
    """Where a row stands, for messages.

    Args:
        number: Its number, from 1.
        places: Where each row stands; empty where its number in the data set says it.
        where: The data set.
    """
    return places[number - 1] if places else f"{where}, row {number}"


def has_marks(tokenizer: Any) -> bool:  # noqa: ANN401 - no types to be had
    """Whether the chat template marks what the assistant says."""
    return is_marked(tokenizer.get_chat_template())


def require_template(tokenizer: Any, *, where: str, marks: bool = False) -> None:  # noqa: ANN401 - no types to be had
    """Check that conversations can be rendered.

    Args:
        tokenizer: A transformers tokenizer.
        where: Which model it belongs to, for the message.
        marks: Whether assistant turns must be told from the others.

    Raises:
        InvalidError: There is no chat template, or it does not mark what the assistant says.
    """
    if tokenizer.chat_template is None:
        raise InvalidError(
            "the tokenizer has no chat template, so conversations cannot be rendered",
            where=where,
            mend="use a base with a chat template, or data of format text",
        )
    if marks and not has_marks(tokenizer):
        raise InvalidError(
            "the chat template has no {% generation %} marks, so the assistant's tokens cannot be told from the others",
            where=where,
            mend="write `train: {loss_on: all}`, or put the marks around the assistant's text in the base's template",
        )


def encode_messages(
    tokenizer: Any,  # noqa: ANN401 - no types to be had
    conversations: Sequence[Sequence[Mapping[str, str]]],
    *,
    assistant_only: bool,
    max_length: int,
    where: str,
    places: Sequence[str] = (),
) -> Encoded:
    """Render and tokenize conversations.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        conversations: Messages with ``role`` and ``content``.
        assistant_only: Take the loss on what the assistant says only.
        max_length: Tokens of a sequence; the end of a longer one is cut off.
        where: Which data set it is, for the message.
        places: Where each row stands, for the message; by default its number in the data set.

    Raises:
        InvalidError: The template does not do, refuses a row or passes its limits, or no row has a token to learn from.
        MachineError: The process that renders could not be started, or was killed from outside.
    """
    require_template(tokenizer, where=where)
    copy = marked_copy(tokenizer.get_chat_template()) if assistant_only and not has_marks(tokenizer) else ""
    require_template(tokenizer, where=where, marks=assistant_only and not copy)
    chats = [
        Chat(messages=messages, where=place_of(row, places, where))
        for row, messages in enumerate(conversations, start=1)
    ]
    rendered = render_tokens(tokenizer, chats, marks=assistant_only, marked=copy)
    rows = [(one.ids, one.mask if assistant_only else [1] * len(one.ids)) for one in rendered]
    encoded = label_rows(rows, max_length=max_length, where=where)
    return replace(encoded, remarks=(_COPIED,)) if copy else encoded


def render_tokens(
    tokenizer: Any,  # noqa: ANN401 - no types to be had
    chats: Sequence[Chat],
    *,
    marks: bool = False,
    marked: str = "",
) -> list[RenderedTokens]:
    """Render conversations in a process of their own, and tokenize what came back.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        chats: The conversations; all of them at once cost one child.
        marks: Whether to find the tokens that the template marks; it takes a tokenizer that knows offsets.
        marked: A copy of the tokenizer's template, with marks; it must render the same, which is looked at.

    Returns:
        As many as there are conversations; what ``apply_chat_template`` gives for each.

    Raises:
        InvalidError: The template is broken, refuses a conversation, reaches out of its sandbox or passes a limit.
        MachineError: The process that renders could not be started, or was killed from outside.
    """
    if not chats:
        return []
    variables = tokenizer.special_tokens_map
    rendered = render(marked or tokenizer.get_chat_template(), chats, variables=variables)
    if marked:
        _check_same(rendered, render(tokenizer.get_chat_template(), chats, variables=variables), chats)
    found = tokenizer([one.text for one in rendered], add_special_tokens=False)
    tokens: list[RenderedTokens] = []
    for row, (one, ids) in enumerate(zip(rendered, found["input_ids"], strict=True)):
        mask = _mask(found, row, one.spans if marks else (), len(ids))
        tokens.append(RenderedTokens(text=one.text, ids=ids, mask=mask))
    return tokens


def _check_same(copied: Sequence[Rendered], own: Sequence[Rendered], chats: Sequence[Chat]) -> None:
    for chat, copy, one in zip(chats, copied, own, strict=True):
        if copy.text != one.text:
            raise InvalidError(
                "the chat template has no {% generation %} marks, and the marked copy that TRL has of it says another "
                "thing than the template itself",
                where=chat.where,
                mend="write `train: {loss_on: all}`, or put the marks around the assistant's text in the base's "
                "template",
            )


def encode_texts(tokenizer: Any, texts: Sequence[str], *, max_length: int, where: str) -> Encoded:  # noqa: ANN401
    """Tokenize plain texts, each ended by the end token; the loss is taken on all of it.

    Raises:
        InvalidError: No row has a token to learn from.
    """
    rows = [[*ids, tokenizer.eos_token_id] for ids in plain_ids(tokenizer, texts)]
    return label_rows(((ids, [1] * len(ids)) for ids in rows), max_length=max_length, where=where)


def encode_pairs(
    tokenizer: Any,  # noqa: ANN401 - no types to be had
    rows: Sequence[Mapping[str, Any]],
    *,
    max_length: int,
    where: str,
    places: Sequence[str] = (),
) -> EncodedPairs:
    """Render and tokenize preferences.

    Texts are taken as they are, with the end token after the answers; messages go through the chat template.

    Args:
        tokenizer: A transformers tokenizer.
        rows: Rows with ``prompt``, ``chosen`` and ``rejected``.
        max_length: Tokens of prompt and answer; the end of a longer answer is cut off.
        where: Which data set it is, for the message.
        places: Where each row stands, for the message; by default its number in the data set.

    Raises:
        InvalidError: There is no chat template, it refuses a row or passes its limits, or no pair is left.
        MachineError: The process that renders could not be started, or was killed from outside.
    """
    pairs: list[Pair] = []
    truncated = silent = 0
    for number, pair in enumerate(_tokenized_pairs(tokenizer, rows, where, places), start=1):
        if len(pair.prompt) < max_length:
            pairs.append(replace(pair, rows=(number,)))
            truncated += len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) > max_length
        else:
            silent += 1
    if not pairs:
        raise InvalidError(
            f"all {silent} prompts fill {max_length} tokens by themselves, so no answer is left to learn from",
            where=where,
            mend="raise max_length",
        )
    return EncodedPairs(pairs=tuple(pairs), truncated=truncated, silent=silent)


def _notes(truncated: int, silent: int, reason: str, called: str) -> tuple[str, ...]:
    notes = []
    if truncated:
        notes.append(f"{truncated} {called} were longer than max_length and lost their end")
    if silent:
        notes.append(f"{silent} {called} were left out: {reason}")
    return tuple(notes)


def _tokenized_pairs(
    tokenizer: Any,  # noqa: ANN401 - no types to be had
    rows: Sequence[Mapping[str, Any]],
    where: str,
    places: Sequence[str],
) -> Iterable[Pair]:
    """As the trainer tokenizes them; the messages of all rows are rendered in one go."""
    numbered = enumerate(rows, start=1)
    chats = [chat for number, row in numbered for chat in _pair_chats(row, place_of(number, places, where))]
    if chats:
        require_template(tokenizer, where=where)
    rendered = iter(render_tokens(tokenizer, chats))
    for row in rows:
        if isinstance(row["prompt"], str):
            text: dict[str, Any] = {name: row[name] for name in _PARTS}
            prompt, *answers = (tokenize_answer(tokenizer, text, name) for name in _PARTS)
        else:
            parts = [next(rendered) for _ in _PARTS]
            roles = ("user", "assistant", "assistant")
            text = {
                name: [{"role": role, "content": part.text}]
                for name, role, part in zip(_PARTS, roles, parts, strict=True)
            }
            prompt, *answers = (part.ids for part in parts)
        chosen, rejected = answers
        yield _pair(text, prompt, chosen, rejected)


def _pair_chats(row: Mapping[str, Any], where: str) -> Iterable[Chat]:
    """The prompt, opened for an answer, and the prompt with each answer; none for a row of texts."""
    if isinstance(row["prompt"], str):
        return
    yield Chat(messages=row["prompt"], where=where, opened=True)
    for name in ("chosen", "rejected"):
        yield Chat(messages=[*row["prompt"], *row[name]], where=where)


def _pair(text: Mapping[str, Any], prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]) -> Pair:
    """Answers begin at the first token where either sequence leaves the prompt."""
    start = min(common_prefix(prompt, chosen), common_prefix(prompt, rejected))
    return Pair(text=text, prompt=tuple(chosen[:start]), chosen=tuple(chosen[start:]), rejected=tuple(rejected[start:]))


def tokenize_answer(tokenizer: Any, text: Mapping[str, str], name: str) -> Sequence[int]:  # noqa: ANN401 - no types
    """Token ids of the prompt, or of the prompt with an answer and the end token."""
    whole = text["prompt"]
    if name != "prompt":
        whole += text[name]
        whole += "" if whole.endswith(tokenizer.eos_token) else tokenizer.eos_token
    ids: Sequence[int] = tokenizer(whole)["input_ids"]
    return ids


def _mask(found: Any, row: int, spans: Iterable[tuple[int, int]], length: int) -> list[int]:  # noqa: ANN401 - no types
    """1 for each token of the spans, as transformers has it: an end that is in no token reaches to the row's end."""
    mask = [0] * length
    for start, end in spans:
        first, last = found.char_to_token(row, start), found.char_to_token(row, end - 1)
        if first is None:
            break
        stop = last + 1 if last else length
        mask[first:stop] = [1] * len(range(first, stop))
    return mask


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the prefix that both have."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))


def plain_ids(tokenizer: Any, texts: Sequence[str]) -> Sequence[Sequence[int]]:  # noqa: ANN401 - no types to be had
    """Token ids of texts as they are, with the special tokens that the tokenizer puts around a text."""
    ids: Sequence[Sequence[int]] = tokenizer(list(texts))["input_ids"]
    return ids


def label_rows(rows: Iterable[tuple[Sequence[int], Sequence[int]]], *, max_length: int, where: str) -> Encoded:
    """Cut rows at a length and label them.

    Args:
        rows: Token ids of each, and 1 for each token that is learnt.
        max_length: Tokens of a sequence; the end of a longer one is cut off.
        where: Which data set it is, for the message.

    Raises:
        InvalidError: No row has a token to learn from.
    """
    examples: list[Example] = []
    truncated = silent = 0
    for number, (ids, mask) in enumerate(rows, start=1):
        truncated += len(ids) > max_length
        kept = tuple(ids[:max_length])
        labels = tuple(token if chosen else IGNORED for token, chosen in zip(kept, mask, strict=False))
        # The first token has nothing before it to be predicted from.
        if any(label != IGNORED for label in labels[1:]):
            examples.append(Example(input_ids=kept, labels=labels, lengths=(len(kept),), rows=(number,)))
        else:
            silent += 1
    if not examples:
        raise InvalidError(
            f"none of the {silent} rows has a token to learn from within {max_length} tokens",
            where=where,
            mend="raise train.max_length, or look at what the chat template marks as the assistant's",
        )
    return Encoded(examples=tuple(examples), truncated=truncated, silent=silent)
