"""Rows of data, each made into its format and checked against it before anything is trained on it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, cast

from builder.row_error import RowError, kind_of
from builder.row_files import entries
from builder.row_shapes import Row, normal_format, normalised
from registry.errors import Fault, InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from registry.canonical import JSON

__all__ = ["PlacedRow", "Row", "check_rows", "placed_rows", "read_rows"]

_MAX_FAULTS = 20
_ROLES = ("user", "assistant")


class PlacedRow(NamedTuple):
    """A row and where it stands.

    Attributes:
        row: In its format.
        file: The file that holds it.
        number: Its line there, or its number, counted from 1.
    """

    row: Row
    file: str
    number: int


def check_rows(path: Path, format: str, *, where: str = "") -> int:  # noqa: A002 - the manifest's word
    """Check rows without keeping them.

    Args:
        path: A file, or a folder of files; what a file is, is told by its name (:mod:`builder.row_files`).
        format: What the manifest says that its rows are; further keys in a row are allowed.
        where: What faults call the file; the path, where it is left out.

    Returns:
        How many rows there are.

    Raises:
        InvalidError: Every faulty row up to the first 20, or there are none at all.
        OSError: The file cannot be read.
    """
    return sum(1 for _ in placed_rows(path, format, where=where))


def read_rows(path: Path, format: str, *, where: str = "") -> list[Row]:  # noqa: A002 - the manifest's word
    """All rows, in their format and checked; arguments and errors as in :func:`check_rows`."""
    return [one.row for one in placed_rows(path, format, where=where)]


def placed_rows(path: Path, format: str, *, where: str = "") -> Iterator[PlacedRow]:  # noqa: A002 - the manifest's word
    """Every good row, one after another; the faults are raised at the end, or when there are many.

    Arguments and errors as in :func:`check_rows`.
    """
    name = where or str(path)
    faults: list[Fault] = []
    form = ""
    empty = True
    for file, number, found in entries(path, where=name):
        empty = False
        try:
            row, form = _checked(found, format, form)
        except RowError as error:
            faults.append(error.fault(file, number))
            if len(faults) == _MAX_FAULTS:
                break
        else:
            yield PlacedRow(row, file, number)
    if empty:
        faults.append(Fault(file=name, line=0, key="", problem="no rows in the file", mend="write at least one"))
    if faults:
        raise InvalidError.from_faults(faults)


def _checked(found: Row | RowError, name: str, form: str) -> tuple[Row, str]:
    """A row, and which of its format's forms it has; every row of a file has the form of the first."""
    if isinstance(found, RowError):
        raise found
    row = normalised(name, found)
    has = _FORMATS[normal_format(name)](row)
    if form and has != form:
        raise RowError("", f"a row of {has}, but the rows before it hold {form}", "keep one form in a file")
    return row, has


def _text_row(row: Row) -> str:
    _text(row, "text")
    return "text"


def _messages_row(row: Row) -> str:
    roles = _messages(_value(row, "messages"), "messages", system=True)
    if "assistant" not in roles:
        raise RowError("messages", "no message of the assistant", "add the answer that is to be learnt")
    return "messages"


def _preference_row(row: Row) -> str:
    """Text three times, or messages three times: a prompt, and two answers that go on from it."""
    return _answers_row(row, "chosen", "rejected")


def _unpaired_row(row: Row) -> str:
    """A prompt, one answer that goes on from it, and whether that answer is a good one."""
    form = _answers_row(row, "completion")
    label = _value(row, "label")
    if not isinstance(label, bool):
        raise RowError("label", f"expected true or false, got {kind_of(label)}", "write true for a good completion")
    return form


def _prompts_row(row: Row) -> str:
    """A prompt that asks for an answer; further columns go to whatever judges the answers."""
    return _answers_row(row)


def _completion_row(row: Row) -> str:
    """A prompt and what is to be learnt after it."""
    return _answers_row(row, "completion")


def _answers_row(row: Row, *answers: str) -> str:
    """A prompt and answers to it: all of them texts, or all of them messages."""
    if isinstance(_value(row, "prompt"), str):
        for key in ("prompt", *answers):
            _text(row, key)
        return "text"
    if _messages(row["prompt"], "prompt", system=True)[-1] != "user":
        raise RowError("prompt", "does not end with the user", "end it with what is to be answered")
    for key in answers:
        if _messages(_value(row, key), key, start="assistant")[-1] != "assistant":
            raise RowError(key, "does not end with the assistant", "end it with the answer")
    return "messages"


_FORMATS: Mapping[str, Callable[[Row], str]] = {
    "completion": _completion_row,
    "messages": _messages_row,
    "preference": _preference_row,
    "prompts": _prompts_row,
    "unpaired": _unpaired_row,
    "text": _text_row,
}


def _value(row: Row, key: str) -> JSON:
    if key not in row:
        raise RowError("", f"missing key {key!r}, found {', '.join(islice(row, 8)) or 'none'}", f"add {key!r}")
    return row[key]


def _text(row: Row, key: str) -> None:
    value = _value(row, key)
    if not isinstance(value, str):
        raise RowError(key, f"expected text, got {kind_of(value)}", "write text")
    if not value:
        raise RowError(key, "empty text", "write text, or take the row out")


def _messages(value: JSON, key: str, *, system: bool = False, start: str = "user") -> list[str]:
    """Roles of a list of messages, the system's left out.

    Args:
        value: What should be the list.
        key: Its key, for faults.
        system: Whether it may start with a message of the system.
        start: Role of the first message, the system's left out; after it they take turns.
    """
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else kind_of(value)
        raise RowError(key, f"expected a list of messages, got {found}", "write messages with role and content")
    roles = [_message(one, f"{key}[{index}]") for index, one in enumerate(value)]
    offset = 1 if system and roles[0] == "system" else 0
    wanted = _ROLES.index(start)
    for index, role in enumerate(roles[offset:]):
        expected = _ROLES[(wanted + index) % 2]
        if role != expected:
            problem = f"expected a message of the {expected}, got the {role}"
            mend = "user and assistant take turns; the system can only be first"
            raise RowError(f"{key}[{index + offset}]", problem, mend)
    if not roles[offset:]:
        raise RowError(key, "nothing but the system's message", "add the turns of user and assistant")
    return roles[offset:]


def _message(value: JSON, key: str) -> str:
    if not isinstance(value, dict):
        raise RowError(key, f"expected a message, got {kind_of(value)}", "write an object with role and content")
    for part in ("role", "content"):
        if not isinstance(value.get(part), str):
            raise RowError(f"{key}.{part}", f"expected text, got {kind_of(value.get(part))}", "write text")
    role = cast("str", value["role"])
    if role not in {"system", *_ROLES}:
        raise RowError(f"{key}.role", f"unknown role {role!r:.60}", "write system, user or assistant")
    if not cast("str", value["content"]).strip():
        empty = "empty answer" if role == "assistant" else f"empty message of the {role}"
        raise RowError(f"{key}.content", empty, "write it, or take the row out")
    return role
