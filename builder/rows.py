"""Rows of a data file: JSON lines, each checked against the file's format before anything is trained on it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, TypeAlias, cast

from registry import canonical
from registry.errors import Fault, InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from registry.canonical import JSON

__all__ = ["Row", "check_rows", "read_rows"]

Row: TypeAlias = "dict[str, JSON]"

_MAX_FAULTS = 20
_MAX_LINE_BYTES = 16 << 20
_ROLES = ("user", "assistant")


def check_rows(path: Path, format: str, *, where: str = "") -> int:  # noqa: A002 - the manifest's word
    """Check a file of rows without keeping them.

    Args:
        path: JSON lines in UTF-8.
        format: ``messages``, ``preference`` or ``text``; further keys in a row are allowed.
        where: What faults call the file; the path, where it is left out.

    Returns:
        How many rows there are.

    Raises:
        InvalidError: Every faulty row up to the first 20, or an empty file.
        OSError: The file cannot be read.
    """
    return sum(1 for _ in _rows(path, format, where))


def read_rows(path: Path, format: str, *, where: str = "") -> list[Row]:  # noqa: A002 - the manifest's word
    """All rows of a file, checked; arguments and errors as in :func:`check_rows`."""
    return list(_rows(path, format, where))


def _rows(path: Path, name: str, where: str) -> Iterator[Row]:
    """Every good row; the faults are raised at the end, or when there are many."""
    file = where or str(path)
    faults: list[Fault] = []
    form = ""
    number = 0
    with path.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_MAX_LINE_BYTES + 1), b""), 1):
            try:
                row, form = _checked(line, name, form)
            except _RowError as error:
                faults.append(error.fault(file, number))
                if len(faults) == _MAX_FAULTS:
                    break
            else:
                yield row
    if not number:
        faults.append(Fault(file=file, line=0, key="", problem="no rows in the file", mend="write at least one"))
    if faults:
        raise InvalidError.from_faults(faults)


def _checked(line: bytes, name: str, form: str) -> tuple[Row, str]:
    """A row, and which of its format's forms it has; every row of a file has the form of the first."""
    row = _decoded(line)
    found = _FORMATS[name](row)
    if form and found != form:
        raise _RowError("", f"a row of {found}, but the rows before it hold {form}", "keep one form in a file")
    return row, found


class _RowError(Exception):
    """What is wrong with one row."""

    def __init__(self, key: str, problem: str, mend: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem
        self.mend = mend

    def fault(self, file: str, line: int) -> Fault:
        return Fault(file=file, line=line, key=self.key, problem=self.problem, mend=self.mend)


def _decoded(line: bytes) -> Row:
    if len(line) > _MAX_LINE_BYTES:
        raise _RowError("", f"a line of more than {_MAX_LINE_BYTES >> 20} MiB", "split the row")
    if not line.strip():
        raise _RowError("", "an empty line", "take it out")
    try:
        row = canonical.decode(line, where="row")
    except InvalidError as error:
        raise _RowError("", error.what, "write one JSON object a line") from error
    if not isinstance(row, dict):
        raise _RowError("", f"expected an object, got {_kind(row)}", "write one JSON object a line")
    return row


def _text_row(row: Row) -> str:
    _text(row, "text")
    return "text"


def _messages_row(row: Row) -> str:
    roles = _messages(_value(row, "messages"), "messages", system=True)
    if "assistant" not in roles:
        raise _RowError("messages", "no message of the assistant", "add the answer that is to be learnt")
    return "messages"


def _preference_row(row: Row) -> str:
    """Text three times, or messages three times: a prompt, and two answers that go on from it."""
    if isinstance(_value(row, "prompt"), str):
        for key in ("prompt", "chosen", "rejected"):
            _text(row, key)
        return "text"
    if _messages(row["prompt"], "prompt", system=True)[-1] != "user":
        raise _RowError("prompt", "does not end with the user", "end it with what is to be answered")
    for key in ("chosen", "rejected"):
        if _messages(_value(row, key), key, start="assistant")[-1] != "assistant":
            raise _RowError(key, "does not end with the assistant", "end it with the answer")
    return "messages"


_FORMATS: Mapping[str, Callable[[Row], str]] = {
    "messages": _messages_row,
    "preference": _preference_row,
    "text": _text_row,
}


def _value(row: Row, key: str) -> JSON:
    if key not in row:
        raise _RowError("", f"missing key {key!r}, found {', '.join(islice(row, 8)) or 'none'}", f"add {key!r}")
    return row[key]


def _text(row: Row, key: str) -> None:
    value = _value(row, key)
    if not isinstance(value, str):
        raise _RowError(key, f"expected text, got {_kind(value)}", "write text")
    if not value:
        raise _RowError(key, "empty text", "write text, or take the row out")


def _messages(value: JSON, key: str, *, system: bool = False, start: str = "user") -> list[str]:
    """Roles of a list of messages, the system's left out.

    Args:
        value: What should be the list.
        key: Its key, for faults.
        system: Whether it may start with a message of the system.
        start: Role of the first message, the system's left out; after it they take turns.
    """
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else _kind(value)
        raise _RowError(key, f"expected a list of messages, got {found}", "write messages with role and content")
    roles = [_message(one, f"{key}[{index}]") for index, one in enumerate(value)]
    offset = 1 if system and roles[0] == "system" else 0
    wanted = _ROLES.index(start)
    for index, role in enumerate(roles[offset:]):
        expected = _ROLES[(wanted + index) % 2]
        if role != expected:
            problem = f"expected a message of the {expected}, got the {role}"
            mend = "user and assistant take turns; the system can only be first"
            raise _RowError(f"{key}[{index + offset}]", problem, mend)
    if not roles[offset:]:
        raise _RowError(key, "nothing but the system's message", "add the turns of user and assistant")
    return roles[offset:]


def _message(value: JSON, key: str) -> str:
    if not isinstance(value, dict):
        raise _RowError(key, f"expected a message, got {_kind(value)}", "write an object with role and content")
    for part in ("role", "content"):
        if not isinstance(value.get(part), str):
            raise _RowError(f"{key}.{part}", f"expected text, got {_kind(value.get(part))}", "write text")
    role = cast("str", value["role"])
    if role not in {"system", *_ROLES}:
        raise _RowError(f"{key}.role", f"unknown role {role!r:.60}", "write system, user or assistant")
    if role == "assistant" and not value["content"]:
        raise _RowError(f"{key}.content", "empty answer", "write it, or take the row out")
    return role


def _kind(value: JSON) -> str:
    """What a value is; never the value itself, since data may be private."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")
