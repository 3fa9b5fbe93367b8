"""A plain document -> the YAML text of a pipeline, as PyYAML writes it in block style, ten times as fast.

Nearly every text of a pipeline is a path, a name or a command that YAML takes for text without quotes. The others,
which are few, are given to PyYAML one by one; a document with such a key, as a whole. That the bytes are then the same
is held by a property test.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON

__all__ = ["pipeline_text"]

_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./@+-]*(?: [A-Za-z0-9_./@+][A-Za-z0-9_./@+-]*)*")
_WORDS: Final = frozenset({"yes", "no", "on", "off", "true", "false", "null"})  # no text to some reader, in some case
_LONGEST: Final = 100  # a longer key is written in another form


def pipeline_text(document: Mapping[str, JSON]) -> str:
    """The text of a document of tables, lists and texts; keys stay in their order."""
    lines: list[str] = []
    try:
        _add_table(lines, document, "", "")
    except _UnusualKeyError:
        return _dumped({**document})
    lines.append("")
    return "\n".join(lines)


class _UnusualKeyError(Exception):
    """A key that is not written as it is."""


def _add_table(lines: list[str], table: Mapping[str, JSON], first: str, indent: str) -> None:
    """Add a table's entries; what stands before the first of them is ``first``, before the others ``indent``."""
    before = first
    for key, value in table.items():
        if not _is_plain(key):
            raise _UnusualKeyError
        if isinstance(value, str):
            lines.append(f"{before}{key}: {_scalar(value)}")
        elif isinstance(value, dict):
            lines.append(f"{before}{key}:" if value else f"{before}{key}: {{}}")
            _add_table(lines, value, f"{indent}  ", f"{indent}  ")
        elif isinstance(value, list):
            lines.append(f"{before}{key}:" if value else f"{before}{key}: []")
            for item in value:  # not indented below the key
                _add_item(lines, item, indent)
        else:
            lines.append(f"{before}{key}: {_scalar(value)}")
        before = indent


def _add_item(lines: list[str], item: JSON, indent: str) -> None:
    if isinstance(item, dict) and item:
        _add_table(lines, item, f"{indent}- ", f"{indent}  ")
    else:
        lines.append(f"{indent}- {_scalar(item)}")


def _scalar(value: JSON) -> str:
    if isinstance(value, str):
        return value if _is_plain(value) else _quoted(value)
    return _dumped([value]).removeprefix("- ").removesuffix("\n")


@cache
def _is_plain(text: str) -> bool:
    return len(text) <= _LONGEST and _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS


@cache
def _quoted(text: str) -> str:
    return _dumped([text]).removeprefix("- ").removesuffix("\n")


def _dumped(value: JSON) -> str:
    import yaml  # noqa: PLC0415 - few pipelines need it

    from registry.yaml12 import is_text  # noqa: PLC0415 - needs yaml

    class Dumper(yaml.SafeDumper):
        """Writes YAML 1.1; what 1.2, which DVC reads, takes for something else than text is put in quotes."""

        def represent_str(self, data: str) -> yaml.ScalarNode:
            return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if is_text(data) else "'")

    Dumper.add_representer(str, Dumper.represent_str)
    text: str = yaml.dump(value, Dumper=Dumper, sort_keys=False, default_flow_style=False, width=1 << 20)
    return text
