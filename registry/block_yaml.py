"""The little of YAML that DVC writes its locks in, read line by line, several times as fast as by a YAML reader.

Block tables and lists, plain words, whole and decimal numbers, text in single quotes without a quote in it. For every
other text the answer is ``None``, and a YAML reader has to be asked: that both read alike is held by a property test.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from registry.canonical import JSON

__all__ = ["read_block"]

_LINE: Final = re.compile(r"( *)(- )?(?:([A-Za-z][A-Za-z0-9_./@-]*):(?: (\S.*))?|(\S.*))", re.ASCII)
_WORDS: Final = re.compile(r"[A-Za-z](?:[A-Za-z0-9_./@+,()=% -]*[A-Za-z0-9_./@+,()=%-])?", re.ASCII)
_OBJECT: Final = re.compile(r"(?!0b[01]*$)(?=[0-9e]*[a-df])[0-9a-f]{32}(?:\.dir)?", re.ASCII)
_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)
_DECIMAL: Final = re.compile(r"-?[0-9]{1,9}(?:\.[0-9]{1,17}(?:e[-+]?[0-9]{1,2})?|e[-+]?[0-9]{1,2})", re.ASCII)
_QUOTED: Final = re.compile(r"'([ -&(-~]*)'", re.ASCII)
_RESERVED: Final = frozenset({"true", "false", "null"})  # in whatever case; only the lower one is read here
_VALUES: Final[dict[str, JSON]] = {"true": True, "false": False, "null": None}


class _Unusual(Exception):  # noqa: N818 - no error: another reader is asked
    """Something that is not read here."""


class _Line(NamedTuple):
    """Spaces before it, whether it begins an item, its key, its value; empty where it has none."""

    indent: int
    dash: bool
    key: str
    value: str


def read_block(text: str) -> JSON | None:
    """The table that a document is; ``None`` where it is another kind of document, or not as DVC writes them."""
    lines: list[_Line] = []
    for line in text.removesuffix("\n").split("\n"):
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        spaces, dash, key, value, item = found.groups("")
        if item and not dash:
            return None
        lines.append(_Line(len(spaces), bool(dash), key, value or item))
    try:
        table, end = _table(lines, 0, 0)
    except (_Unusual, RecursionError):
        return None
    return table if end == len(lines) else None


def _table(lines: list[_Line], start: int, indent: int) -> tuple[dict[str, JSON], int]:
    """The table that begins at a line, and the line after it."""
    table: dict[str, JSON] = {}
    index, count = start, len(lines)
    while index < count:
        depth, dash, key, value = lines[index]
        if depth != indent or dash or not key:
            break
        if key in table or key.lower() in _RESERVED:
            raise _Unusual
        index += 1
        if value:
            table[key] = _scalar(value)
        elif index < count and lines[index].dash and lines[index].indent >= indent:
            table[key], index = _list(lines, index, lines[index].indent)
        elif index < count and lines[index].indent > indent:
            table[key], index = _table(lines, index, lines[index].indent)
        else:
            raise _Unusual
    if index == start:
        raise _Unusual
    return table, index


def _list(lines: list[_Line], start: int, indent: int) -> tuple[list[JSON], int]:
    """The list that begins at a line, and the line after it."""
    items: list[JSON] = []
    index, count = start, len(lines)
    while index < count and lines[index].dash and lines[index].indent == indent:
        line = lines[index]
        if line.key:  # the first entry of a table whose others stand below its key
            lines[index] = line._replace(indent=indent + 2, dash=False)
            item, index = _table(lines, index, indent + 2)
            items.append(item)
        else:
            items.append(_scalar(line.value))
            index += 1
    return items, index


def _scalar(text: str) -> JSON:
    if _WORDS.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    if text in _VALUES:
        return _VALUES[text]
    if _OBJECT.fullmatch(text):
        return text
    if quoted := _QUOTED.fullmatch(text):
        return quoted[1]
    return _number_or_empty(text)


def _number_or_empty(text: str) -> JSON:
    if _WHOLE.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    if text in {"[]", "{}"}:
        return [] if text == "[]" else {}
    raise _Unusual
