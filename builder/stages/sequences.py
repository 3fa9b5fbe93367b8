"""Rows of an evaluation's data as token ids, with the tokens that count.

Text: the whole of it counts, without special tokens of the tokenizer's own. Its first token is predicted from the
start token (the end token where there is none), which does not count. A text longer than ``max_length`` is cut into
windows, each predicted from the last token of the one before it, so every token counts once.

Messages: rendered as a training renders them; the chat template gives the start. What a turn is, is found by

* the template's ``{% generation %}`` marks, for ``assistant`` and ``last``, where it has them;
* else by rendering the conversation message by message: what a message adds is its turn. An answer begins after what
  opens an answer (the generation prompt); a user's turn has its role mark with it. Each rendering must go on where the
  one before it ended, or the row is refused.

Preferences: as a training tokenizes them; the answers count.

Conversations and answers longer than ``max_length`` lose their end, which is counted and said.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from builder.stages.templates import Chat
from builder.stages.tokens import encode_pairs, has_marks, render_tokens, require_template
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.stages.tokens import RenderedTokens

__all__ = ["Counted", "Sequences", "Turns", "message_sequences", "preference_sequences", "text_sequences"]

Turns: TypeAlias = Literal["assistant", "user", "all", "last"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """One sequence.

    Attributes:
        ids: Token ids.
        places: Places in ``ids`` of the tokens that count; never 0, since nothing is before the first token.
    """

    ids: tuple[int, ...]
    places: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """A data set, ready to be scored.

    Attributes:
        all: The sequences; two for a preference, the chosen answer first.
        rows: Rows in them.
        size_bytes: UTF-8 bytes of the texts; 0 for other data.
        truncated: Rows that lost their end.
        silent: Rows left out, since no token that counts is in them.
    """

    all: tuple[Counted, ...]
    rows: int
    size_bytes: int
    truncated: int
    silent: int

    @property
    def tokens(self) -> int:
        """Tokens that count."""
        return sum(len(one.places) for one in self.all)


def text_sequences(tokenizer: Any, texts: Sequence[str], *, max_length: int, where: str) -> Sequences:  # noqa: ANN401
    """Texts in windows that predict every token once.

    Raises:
        InvalidError: The tokenizer has neither start nor end token, or there is no token in any text.
    """
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if first is None:
        raise InvalidError(
            "the tokenizer has neither a start nor an end token to predict a text's first token from",
            where=where,
            mend="use a base whose tokenizer_config.json names a bos_token or an eos_token",
        )
    rows = [tuple(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    windows = [window for ids in rows if ids for window in _windows((first, *ids), max_length)]
    return _some(
        Sequences(
            all=tuple(windows),
            rows=sum(map(bool, rows)),
            size_bytes=sum(len(text.encode()) for text in texts),
            truncated=0,
            silent=sum(not ids for ids in rows),
        ),
        where,
    )


def message_sequences(
    tokenizer: Any,  # noqa: ANN401 - no types to be had
    conversations: Sequence[Sequence[Mapping[str, str]]],
    *,
    turns: Turns,
    max_length: int,
    where: str,
) -> Sequences:
    """Conversations with the tokens of some turns.

    Raises:
        InvalidError: There is no chat template, it refuses a row, passes its limits or does not render a row message
            by message, or no token of these turns is in any row.
        MachineError: The process that renders could not be started, or was killed from outside.
    """
    require_template(tokenizer, where=where)
    marked = turns in {"assistant", "last"} and has_marks(tokenizer)
    grown = "" if marked or turns == "all" else "user" if turns == "user" else "assistant"
    chats = [_chats(messages, grown, f"{where}, row {row}") for row, messages in enumerate(conversations, start=1)]
    rendered = iter(render_tokens(tokenizer, [chat for row in chats for chat in row], marks=marked))
    chosen: list[Counted] = []
    truncated = silent = 0
    for row in chats:
        whole, *parts = islice(rendered, len(row))
        ids, places = whole.ids, _places(whole, list(zip(row[1:], parts, strict=True)), turns, marked=marked)
        truncated += len(ids) > max_length
        kept = tuple(place for place in places if 0 < place < max_length)
        silent += not kept
        if kept:
            chosen.append(Counted(ids=tuple(ids[:max_length]), places=kept))
    return _some(
        Sequences(all=tuple(chosen), rows=len(chosen), size_bytes=0, truncated=truncated, silent=silent), where
    )


def preference_sequences(
    tokenizer: Any,  # noqa: ANN401 - no types to be had
    rows: Sequence[Mapping[str, Any]],
    *,
    max_length: int,
    where: str,
) -> Sequences:
    """Both answers of every preference, the chosen one first.

    Raises:
        InvalidError: A row mixes texts and messages, there is no chat template, or no pair is left.
    """
    encoded = encode_pairs(tokenizer, rows, max_length=max_length, where=where)
    sequences = tuple(
        _answer(pair.prompt, answer, max_length) for pair in encoded.pairs for answer in (pair.chosen, pair.rejected)
    )
    return Sequences(
        all=sequences,
        rows=len(encoded.pairs),
        size_bytes=0,
        truncated=encoded.truncated,
        silent=encoded.silent,
    )


def _windows(ids: tuple[int, ...], max_length: int) -> Iterable[Counted]:
    """Pieces of at most ``max_length`` tokens, the first of each being the last of the piece before it."""
    for start in range(0, len(ids) - 1, max_length - 1):
        piece = ids[start : start + max_length]
        yield Counted(ids=piece, places=tuple(range(1, len(piece))))


def _answer(prompt: tuple[int, ...], answer: tuple[int, ...], max_length: int) -> Counted:
    ids = (*prompt, *answer)[:max_length]
    return Counted(ids=ids, places=tuple(range(max(1, len(prompt)), len(ids))))


def _some(sequences: Sequences, where: str) -> Sequences:
    if not sequences.tokens:
        raise InvalidError(
            f"none of the {sequences.silent} rows has a token that counts",
            where=where,
            mend="raise max_length, choose other turns, or look at the data",
        )
    return sequences


def _chats(messages: Sequence[Mapping[str, str]], grown: str, where: str) -> list[Chat]:
    """What is to be rendered of a conversation: the whole; then, for each message of a role, up to it and with it."""
    chats = [Chat(messages=messages, where=where)]
    for index, message in enumerate(messages):
        if message["role"] == grown:
            if index:
                chats.append(Chat(messages=messages[:index], where=where, opened=grown == "assistant"))
            chats.append(Chat(messages=messages[: index + 1], where=where))
    return chats


def _places(
    whole: RenderedTokens, parts: Sequence[tuple[Chat, RenderedTokens]], turns: Turns, *, marked: bool
) -> Sequence[int]:
    """Places of a conversation's tokens in the turns."""
    if turns == "all":
        return range(len(whole.ids))
    spans = _runs(whole.mask) if marked else _grown(whole, parts)
    taken = spans[-1:] if turns == "last" else spans
    return [place for span in taken for place in span]


def _grown(whole: RenderedTokens, parts: Sequence[tuple[Chat, RenderedTokens]]) -> list[range]:
    """What each message adds, of renderings up to it and with it in turn; nothing is before the first message."""
    first = len(parts) % 2  # place of the first rendering up to a message
    for place, (chat, part) in enumerate(parts):
        if tuple(whole.ids[: len(part.ids)]) != tuple(part.ids):
            number = len(chat.messages) + (place % 2 == first)
            raise InvalidError(
                f"the chat template renders message {number} in a way that changes what is before it",
                where=chat.where,
                mend="write `turns: all`, or put {% generation %} marks around the answers in the base's template",
            )
    lengths = [0] * first + [len(part.ids) for _, part in parts]
    return [range(start, stop) for start, stop in zip(lengths[::2], lengths[1::2], strict=True)]


def _runs(mask: Sequence[int]) -> list[range]:
    """The stretches of ones."""
    pairs = zip([0, *mask], [*mask, 0], strict=True)
    edges = [at for at, (before, here) in enumerate(pairs) if before != here]
    return [range(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
