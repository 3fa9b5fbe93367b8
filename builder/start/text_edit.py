"""Edits of a YAML text that leave all the rest of it as it was, comments and order included. Pure.

Where an entry stands is told by the parser; what was written is read again afterwards, and an edit that did something
else than it should (an alias that stands in two places, a form that is not foreseen) is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import yaml

from builder.manifest_text import manifest_text
from registry import yaml12
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from registry.canonical import JSON

__all__ = ["add_entry", "put_entry", "remove_entry", "replace_scalars"]


def replace_scalars(text: str, scalars: Mapping[yaml12.KeyPath, str | int], *, where: str) -> str:
    """Write other scalars where scalars stand.

    Args:
        text: The document.
        scalars: New value by key path.
        where: Path of the file, for errors.

    Raises:
        InvalidError: The edit cannot be made in the text alone, or the document is broken.
    """
    root = _compose(text, where)
    spans = {_span(_at(root, path, where)): value for path, value in scalars.items()}  # an alias stands in two places
    edited = text
    for (start, end), value in sorted(spans.items(), reverse=True):
        edited = edited[:start] + _scalar(value) + edited[end:]

    def change(document: JSON) -> None:
        for path, value in scalars.items():
            _table(document, path[:-1])[path[-1]] = value  # type: ignore[index]

    return _checked(text, edited, change, where)


def add_entry(text: str, table: yaml12.KeyPath, key: str, value: JSON, *, after: Sequence[str] = (), where: str) -> str:
    """Write a new entry into a table.

    Args:
        text: The document.
        table: Key path of the table; empty for the document itself.
        key: The new key, which the table lacks.
        value: Its value.
        after: Keys after the last of which it goes, as far as they are there; else it comes last.
        where: Path of the file, for errors.

    Raises:
        InvalidError: The edit cannot be made in the text alone, or the document is broken.
    """
    node = _at(_compose(text, where), table, where)
    if not isinstance(node, yaml.MappingNode):
        raise _by_hand(where)
    entry = manifest_text({key: value}).rstrip("\n")
    if node.flow_style:
        place = _end(node.value[-1][1]) if node.value else node.start_mark.index + 1
        edited = text[:place] + (f", {entry}" if node.value else entry) + text[place:]
    elif node.value:
        known = [one for one in node.value if one[0].value in after] or [node.value[-1]]
        place = _line_after(text, known[-1][1])
        indent = " " * node.value[0][0].start_mark.column
        gap = "" if text[:place].endswith("\n") else "\n"
        edited = f"{text[:place]}{gap}{indent}{entry}\n{text[place:]}"
    else:
        raise _by_hand(where)

    def change(document: JSON) -> None:
        cast("dict[str, JSON]", _table(document, table))[key] = value

    return _checked(text, edited, change, where)


def put_entry(text: str, key: str, value: JSON, *, after: Sequence[str] = (), where: str) -> str:
    """Write an entry of the document itself, in the place of the one that it has.

    Raises:
        InvalidError: The edit cannot be made in the text alone, or the document is broken.
    """
    document = yaml12.load(text, where).value
    if isinstance(document, dict) and key in document:
        text, after = remove_entry(text, key, where=where), (*after, *_before(document, key))
    return add_entry(text, (), key, value, after=after, where=where)


def remove_entry(text: str, key: str, *, where: str) -> str:
    """Take an entry of the document itself out, with the lines that it is written in.

    Raises:
        InvalidError: The edit cannot be made in the text alone, or the document is broken.
    """
    root = _compose(text, where)
    found = [pair for pair in root.value if pair[0].value == key] if isinstance(root, yaml.MappingNode) else []
    if not found or not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise _by_hand(where)
    start = text.rfind("\n", 0, found[0][0].start_mark.index) + 1
    edited = text[:start] + text[_line_after(text, found[0][1]) :]

    def change(document: JSON) -> None:
        del cast("dict[str, JSON]", document)[key]

    return _checked(text, edited, change, where)


def _before(document: Mapping[str, JSON], key: str) -> tuple[str, ...]:
    """The key that stands before another, where there is one."""
    keys = [*document]
    return tuple(keys[max(keys.index(key) - 1, 0) : keys.index(key)])


def _compose(text: str, where: str) -> yaml.Node:
    """The tree with its places, of a text that passes the limits of the reader; nothing is built from it."""
    yaml12.load(text, where)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _by_hand(where) from error
    return node if node is not None else yaml.ScalarNode("", "")


def _at(node: yaml.Node, path: yaml12.KeyPath, where: str) -> yaml.Node:
    for part in path:
        inner = node.value
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(inner):
            node = inner[part]
            continue
        found = [value for key, value in inner if key.value == part] if isinstance(node, yaml.MappingNode) else []
        if not found:
            raise _by_hand(where)
        node = found[0]
    return node


def _span(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.index, node.end_mark.index


def _last(node: yaml.Node) -> yaml.Node:
    """The last scalar or table in braces of a node: where its text ends, what follows it left out."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    return node


def _end(node: yaml.Node) -> int:
    return int(_last(node).end_mark.index)


def _line_after(text: str, node: yaml.Node) -> int:
    """Where the line after a node begins."""
    end = _end(node)
    if text[end - 1 : end] == "\n":  # a block of text ends with its last line
        return end
    return text.find("\n", end) + 1 or len(text)


def _scalar(value: str | int) -> str:
    return manifest_text({"x": value}).removeprefix("x: ").rstrip("\n")


def _table(document: JSON, path: yaml12.KeyPath) -> dict[str, JSON] | list[JSON]:
    for part in path:
        document = cast("dict[str | int, JSON]", document)[part]  # or a list: the parser found the key there
    return cast("dict[str, JSON] | list[JSON]", document)


def _checked(before: str, after: str, change: Callable[[JSON], None], where: str) -> str:
    wanted = _copy(yaml12.load(before, where).value)
    change(wanted)
    try:
        found = yaml12.load(after, where).value
    except InvalidError as error:
        raise _by_hand(where) from error
    if found != wanted:
        raise _by_hand(where)
    return after


def _copy(value: JSON) -> JSON:
    """A copy in which what an alias repeats is there as often."""
    if isinstance(value, dict):
        return {key: _copy(one) for key, one in value.items()}
    return [_copy(one) for one in value] if isinstance(value, list) else value


def _by_hand(where: str) -> InvalidError:
    return InvalidError(
        "the file is written in a form that cannot be edited safely",
        where=where,
        mend="make this change by hand, or write the file as a plain table without aliases; nothing was changed",
    )
