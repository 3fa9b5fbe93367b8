"""YAML 1.2 as DVC reads it, with a line for every key; what two readers could take differently is refused.

PyYAML's C parser gives events, and the values are made from them here, so nothing deep, long or self-referring is ever
composed: depth, copies made by aliases, tags and directives are seen before they can do harm. Plain scalars follow the
rules of ruamel, the reader beneath DVC: ``on`` is text, ``1e-4`` a number, ``1:30`` text, ``010`` ten.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeAlias, cast

import yaml

from registry.conflict_markers import conflict_line
from registry.errors import Fault, InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from registry.canonical import JSON

__all__ = ["MAX_BYTES", "Document", "KeyPath", "dotted", "is_text", "line_of", "load"]

KeyPath: TypeAlias = "tuple[str | int, ...]"

MAX_BYTES = 1 << 20
_MAX_DEPTH = 64
_MAX_FAULTS = 100
_MAX_COPIED = 10_000  # values that all aliases together may stand for

_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN)"
)
_INTEGER = re.compile(r"[-+]?0b[0-1_]+|[-+]?0o?[0-7_]+|[-+]?[0-9_]+|[-+]?0x[0-9a-fA-F_]+")
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?"
    r"(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?"
)
_WORDS: Mapping[str, JSON] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_RESERVED = frozenset({"<<", "="})
_NUMBER_STARTS = frozenset("-+.0123456789")
_BASES = {"0b": 2, "0o": 8, "0x": 16}

# Tabs, which DVC's reader mostly refuses, control characters, and the line breaks of YAML 1.1 that 1.2 takes for text.
_REFUSED = re.compile("[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


class Document(NamedTuple):
    """A document that was read.

    Attributes:
        value: The plain value; an empty document is an empty table.
        lines: Line of each key and list item, counted from 1, by key path. What an alias repeats has none of its own.
    """

    value: JSON
    lines: Mapping[KeyPath, int]


def load(text: str | bytes, where: str, *, max_bytes: int = MAX_BYTES) -> Document:
    """Read one document.

    Args:
        text: The document; bytes are UTF-8.
        where: Its path, named in the faults.
        max_bytes: Limit on the document's size.

    Raises:
        InvalidError: The document is too large or too deep, is not YAML, or holds something that is refused here: a
            duplicate key, a key that is not text, a merge key, a tag, a directive, a date. Every fault is listed, up
            to the first that breaks the syntax.
    """
    reader = _Reader(where)
    value = reader.read(_decoded(text, where, max_bytes))
    if reader.faults:
        raise InvalidError.from_faults(reader.faults)
    return Document(value, reader.lines)


def is_text(plain: str) -> bool:
    """Whether a scalar without quotes is text: no number, date or word with a meaning of its own."""
    if plain in _WORDS or plain in _RESERVED:
        return False
    return not any(form.fullmatch(plain) for form in (_FLOAT, _INTEGER, _DATE))


def dotted(path: KeyPath) -> str:
    """A key path for people: ``stages.tone.data``, ``checks[0].metric``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """Line of a key, or of the nearest key around it; 0 where the document has none."""
    for length in range(len(path), -1, -1):
        if line := lines.get(path[:length], 0):
            return line
    return 0


def _decoded(text: str | bytes, where: str, max_bytes: int) -> str:
    """The text with plain newlines, once its size and its characters have passed."""
    size = len(text)
    if size > max_bytes:
        _refuse(where, 0, f"document of {size} bytes, at most {max_bytes} are read", "split or shorten it")
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        _refuse(where, line, "not UTF-8", "save the file as UTF-8", error)
    decoded = decoded.replace("\r\n", "\n").replace("\r", "\n")
    if found := _REFUSED.search(decoded):
        line = decoded.count("\n", 0, found.start()) + 1
        code = f"U+{ord(found[0]):04X}"
        _refuse(where, line, f"character {code} in the text", "take it out, or write its escape in double quotes")
    return decoded


def _refuse(where: str, line: int, problem: str, mend: str, cause: Exception | None = None) -> NoReturn:
    raise InvalidError.from_faults([Fault(file=where, line=line, key="", problem=problem, mend=mend)]) from cause


class _Reader:
    """Makes values from events, and keeps the lines and the faults."""

    def __init__(self, where: str) -> None:
        self.faults: list[Fault] = []
        self.lines: dict[KeyPath, int] = {}
        self._where = where
        self._anchors: dict[str, tuple[JSON, int]] = {}  # value, and how many values are in it
        self._made = 0
        self._copied = 0
        self._events: Iterator[yaml.Event] = iter(())

    def read(self, text: str) -> JSON:
        self._events = iter(yaml.parse(text, yaml.CSafeLoader))
        try:
            return self._document()
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            problem, mend = f"not YAML: {error.problem or error.context}", "correct the syntax at this line"
            if found := conflict_line(text):
                line = found
                problem, mend = "a merge left its conflict markers", "take one side of each, then take the markers out"
            self.faults.append(Fault(file=self._where, line=line, key="", problem=problem, mend=mend))
        except _StopError as error:
            self.faults.append(error.fault(self._where))
        return None

    def _document(self) -> JSON:
        next(self._events)  # the start of the stream
        start = next(self._events)
        if not isinstance(start, yaml.DocumentStartEvent):
            return {}
        if start.version or start.tags:
            self._fault(1, (), "a % directive", "leave it out: the file is read as YAML 1.2")
        root = next(self._events)
        if isinstance(root, yaml.ScalarEvent) and root.style in {"|", ">"}:
            self._fault(1, (), "a document that is one block of text", "write a table")
        value = self._node(root, ())
        end = next(self._events)
        if isinstance(end, yaml.DocumentEndEvent) and end.explicit:
            self._fault(_line(end), (), "a line of three dots", "take it out; the document ends with the file")
        after = next(self._events)
        if isinstance(after, yaml.DocumentStartEvent):
            self._fault(_line(after), (), "a second document", "keep one document in a file; take the `---` out")
        return value

    def _node(self, event: yaml.Event, path: KeyPath) -> JSON:
        self.lines.setdefault(path, _line(event))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        event = cast("yaml.ScalarEvent | yaml.CollectionStartEvent", event)
        before = self._made
        self._made += 1
        if event.tag is not None:
            self._fault(_line(event), path, f"tag {event.tag!r}", "leave the tag out")
        value: JSON
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        elif len(path) >= _MAX_DEPTH:
            raise _StopError(event, path, f"nested deeper than {_MAX_DEPTH}", "flatten it")
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path)
        else:
            value = self._mapping(path)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._made - before)
        return value

    def _alias(self, event: yaml.AliasEvent, path: KeyPath) -> JSON:
        if event.anchor not in self._anchors:
            raise _StopError(event, path, f"alias *{event.anchor} of nothing before it", "write the value out")
        value, count = self._anchors[event.anchor]
        self._made += count
        self._copied += count
        if self._copied > _MAX_COPIED:
            problem = f"aliases stand for more than {_MAX_COPIED} values"
            raise _StopError(event, path, problem, "write the values out")
        return value

    def _sequence(self, path: KeyPath) -> list[JSON]:
        items: list[JSON] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return items

    def _mapping(self, path: KeyPath) -> dict[str, JSON]:
        table: dict[str, JSON] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, path)
            place = path if key is None else (*path, key)
            double = key is not None and key in table
            if double:
                first = self.lines[place]
                self._fault(_line(event), place, f"key twice in one table, first in line {first}", "keep one of them")
            self.lines.setdefault(place, _line(event))
            value = self._node(next(self._events), place)
            if key is not None and not double:
                table[key] = value
        return table

    def _key(self, event: yaml.Event, path: KeyPath) -> str | None:
        """The key, or None where it is refused."""
        if not isinstance(event, yaml.ScalarEvent):
            raise _StopError(event, path, "a key that is not plain text", "write the key as text")
        if event.implicit[0] and event.value == "<<":
            self._fault(_line(event), path, "a merge key", "write the keys out")
            return None
        place = (*path, event.value)
        key = self._scalar(event, place)
        if event.tag is not None:
            self._fault(_line(event), place, f"tag {event.tag!r}", "leave the tag out")
        if event.anchor is not None:
            self._anchors[event.anchor] = (key, 1)
        if not isinstance(key, str):
            self._fault(_line(event), place, "a key that YAML does not read as text", "put the key in quotes")
            return None
        return key

    def _scalar(self, event: yaml.ScalarEvent, path: KeyPath) -> JSON:
        text = event.value
        if not event.implicit[0]:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if text[0] in _NUMBER_STARTS:
            return self._number(event, path)
        if text in _RESERVED:
            self._fault(_line(event), path, f"{text} has a meaning of its own in YAML", "put it in quotes")
        return text

    def _number(self, event: yaml.ScalarEvent, path: KeyPath) -> JSON:
        text = event.value
        try:
            if _FLOAT.fullmatch(text):
                return _float(text)
            if _INTEGER.fullmatch(text):
                return _integer(text)
        except ValueError:
            self._fault(_line(event), path, f"{text[:40]} is no number", "write a number, or put it in quotes")
        if _DATE.fullmatch(text):
            self._fault(_line(event), path, f"{text} is a date in YAML", "put it in quotes")
        return text

    def _fault(self, line: int, path: KeyPath, problem: str, mend: str) -> None:
        if len(self.faults) == _MAX_FAULTS:
            raise _StopError(None, (), f"more than {_MAX_FAULTS} faults", "correct those above first")
        self.faults.append(Fault(file=self._where, line=line, key=dotted(path), problem=problem, mend=mend))


class _StopError(Exception):
    """Reading ends here: a limit is passed, or what follows makes no sense."""

    def __init__(self, event: yaml.Event | None, path: KeyPath, problem: str, mend: str) -> None:
        super().__init__(problem)
        self._line = _line(event) if event else 0
        self._path = path
        self._problem = problem
        self._mend = mend

    def fault(self, where: str) -> Fault:
        return Fault(file=where, line=self._line, key=dotted(self._path), problem=self._problem, mend=self._mend)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _float(text: str) -> float:
    plain = text.replace("_", "").lower()
    if plain.endswith((".inf", ".nan")):
        return float(plain.replace(".", ""))
    return float(plain)


def _integer(text: str) -> int:
    plain = text.replace("_", "")
    digits = plain.lstrip("+-")
    base = _BASES.get(digits[:2], 10)
    number = int(digits[2:] if base != 10 else digits, base)  # noqa: PLR2004 - ten
    return -number if plain.startswith("-") else number
