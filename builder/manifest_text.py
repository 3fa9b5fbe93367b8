"""A plain value -> the YAML text of a manifest, as people write it: short tables in one line."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from registry.yaml12 import is_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from registry.canonical import JSON

__all__ = ["manifest_text"]

_WIDTH: Final = 120
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./@][A-Za-z0-9_./@+ -]*[A-Za-z0-9_./@+]|[A-Za-z0-9_]")


def manifest_text(value: Mapping[str, JSON]) -> str:
    """The text of a document; keys stay in their order."""
    return "".join(f"{line}\n" for line in _table(value, 0))


def _table(value: Mapping[str, JSON], depth: int) -> Iterator[str]:
    for key, one in value.items():
        yield from _entry(f"{'  ' * depth}{_text(key)}:", one, depth)


def _entry(head: str, value: JSON, depth: int) -> Iterator[str]:
    """A key with its value: in one line where that is short enough, else one entry a line."""
    line = f"{head} {_flow(value)}"
    if len(line) <= _WIDTH or not isinstance(value, dict | list) or not value:
        yield line
    elif isinstance(value, dict):
        yield head
        yield from _table(value, depth + 1)
    else:
        yield head
        for item in value:
            yield f"{'  ' * depth}- {_flow(item)}"


def _flow(value: JSON) -> str:
    """A value in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value, allow_nan=False)


def _text(text: str) -> str:
    """Text without quotes where it is read as text all the same."""
    return text if _PLAIN.fullmatch(text) and is_text(text) else json.dumps(text, ensure_ascii=False)
