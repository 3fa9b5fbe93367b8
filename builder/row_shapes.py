"""Shapes in which people have their rows, each made into one of the formats that stages read. Pure.

A shape is named in the manifest, never guessed. What a shape can hold and a format cannot is refused, not dropped: a
tool call, a picture, a message that must not be learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast, get_args

from builder.row_error import RowError, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from registry.canonical import JSON

__all__ = ["FORMATS", "Format", "NormalFormat", "Row", "normal_format", "normalised"]

Row: TypeAlias = "dict[str, JSON]"
NormalFormat: TypeAlias = Literal["messages", "completion", "preference", "unpaired", "prompts", "text"]
Shape: TypeAlias = Literal["alpaca", "sharegpt", "openai", "preference-chats"]
Format: TypeAlias = Literal[NormalFormat, Shape]
FORMATS: Final[tuple[str, ...]] = get_args(NormalFormat)
"""What rows are once they are read."""

_SPEAKERS: Final = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
}
_TEXT_ONLY: Final = ("tool_calls", "function_call", "audio", "tool_call_id")


def normal_format(name: str) -> str:
    """The format that rows of a shape become; a format is its own."""
    return _MAKERS[name][0] if name in _MAKERS else name


def normalised(name: str, row: Row) -> Row:
    """A row of a shape as its format has it; rows that are in a format already are left as they are.

    Args:
        name: What the manifest says that the row is.
        row: As it was read.

    Raises:
        RowError: It is no such row, or holds what the format cannot.
    """
    return _MAKERS[name][1](row) if name in _MAKERS else row


def _alpaca(row: Row) -> Row:
    """``instruction``, perhaps ``input`` and ``system``, and ``output``: one turn each."""
    asked = _text(row, "instruction")
    further = _text(row, "input") if row.get("input") is not None else ""
    if not asked:
        raise RowError("instruction", "empty text", "write what is asked, or take the row out")
    if row.get("history"):
        raise RowError("history", "earlier turns, which this shape has no place for", "write `format: messages`")
    messages = [_said("user", f"{asked}\n\n{further}" if further else asked), _said("assistant", _text(row, "output"))]
    return _rest(row, "instruction", "input", "output", "system", "history") | _conversation(row, messages)


def _sharegpt(row: Row) -> Row:
    """``conversations`` of ``from`` and ``value``, perhaps with ``system`` beside them."""
    if "conversations" not in row:
        raise RowError("", "missing key 'conversations'", "add it, or name another `format`")
    messages: list[JSON] = []
    for index, one in enumerate(_list(row["conversations"], "conversations")):
        key = f"conversations[{index}]"
        if not isinstance(one, dict):
            raise RowError(key, f"expected a turn, got {kind_of(one)}", "write an object with from and value")
        speaker = _text(one, "from", key)
        if speaker not in _SPEAKERS:
            mend = "write system, human or gpt; turns of tools have no place here"
            raise RowError(f"{key}.from", f"unknown speaker {speaker!r:.60}", mend)
        messages.append(_said(_SPEAKERS[speaker], _text(one, "value", key)))
    return _rest(row, "conversations", "system") | _conversation(row, messages)


def _openai(row: Row) -> Row:
    """``messages`` as the API has them: contents in parts, further keys, ``developer`` for the system."""
    if "messages" not in row:
        raise RowError("", "missing key 'messages'", "add it, or name another `format`")
    if row.get("tools") or row.get("functions"):
        raise RowError("tools", "rows with tools are not rendered", "take the row out")
    found = [_openai_message(one, f"messages[{at}]") for at, one in enumerate(_list(row["messages"], "messages"))]
    return _rest(row, "messages", "tools", "functions", "parallel_tool_calls") | {"messages": found}


def _openai_message(value: JSON, key: str) -> JSON:
    if not isinstance(value, dict):
        raise RowError(key, f"expected a message, got {kind_of(value)}", "write an object with role and content")
    for name in _TEXT_ONLY:
        if value.get(name):
            raise RowError(f"{key}.{name}", "more than text", "take the row out; only what is said in text is learnt")
    if value.get("weight") not in {None, 1}:
        mend = "take `weight` out, or the row; every answer of a row is learnt, or with `loss_on: all` every token"
        raise RowError(f"{key}.weight", "an answer that must not be learnt", mend)
    role = _text(value, "role", key)
    return _said("system" if role == "developer" else role, _joined(value.get("content"), f"{key}.content"))


def _joined(content: JSON, key: str) -> str:
    """Text, or parts that are all text, laid together."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for index, part in enumerate(_list(content, key)):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RowError(f"{key}[{index}]", "a part that is no text", "take the row out; only text is learnt")
        texts.append(cast("str", part["text"]))
    return "".join(texts)


def _preference_chats(row: Row) -> Row:
    """``chosen`` and ``rejected`` as whole conversations: what both begin with is the prompt.

    A ``prompt`` beside them, as some sets have, must be the last thing that the user says.
    """
    chosen, rejected = (_list(row.get(key), key) for key in ("chosen", "rejected"))
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    if same == len(chosen) or same == len(rejected):
        raise RowError("rejected", "the two conversations do not differ", "take the row out")
    if not same:
        raise RowError("rejected", "the two conversations begin unlike each other", "begin both with the same prompt")
    last = chosen[same - 1]
    said = last.get("content") if isinstance(last, dict) else None
    if isinstance(row.get("prompt"), str) and row["prompt"] != said:
        raise RowError("prompt", "is not what both conversations ask", "correct it, or take it out")
    parts: Row = {"prompt": chosen[:same], "chosen": chosen[same:], "rejected": rejected[same:]}
    return _rest(row, *parts) | parts


_MAKERS: Final[Mapping[str, tuple[NormalFormat, Callable[[Row], Row]]]] = {
    "alpaca": ("messages", _alpaca),
    "sharegpt": ("messages", _sharegpt),
    "openai": ("messages", _openai),
    "preference-chats": ("preference", _preference_chats),
}


def _conversation(row: Row, messages: list[JSON]) -> Row:
    """The messages, after what the row tells the system."""
    system = _text(row, "system") if row.get("system") is not None else ""
    return {"messages": [*([_said("system", system)] if system else []), *messages]}


def _rest(row: Row, *taken: str) -> Row:
    return {key: value for key, value in row.items() if key not in taken}


def _said(role: str, content: str) -> JSON:
    return {"role": role, "content": content}


def _list(value: JSON, key: str) -> list[JSON]:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else kind_of(value)
        raise RowError(key, f"expected a list, got {found}", "correct it, or name another `format`")
    return value


def _text(row: Row, key: str, within: str = "") -> str:
    place = f"{within}.{key}" if within else key
    if key not in row:
        raise RowError(within, f"missing key {key!r}", "add it, or name another `format`")
    value = row[key]
    if not isinstance(value, str):
        raise RowError(place, f"expected text, got {kind_of(value)}", "write text")
    return value
