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
    from collections.abc import Iterator, Mapping

    from registry.canonical import JSON

__all__ = ["pipeline_text"]

_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./@+-]*(?: [A-Za-z0-9_./@+][A-Za-z0-9_./@+-]*)*")
_WORDS: Final = frozenset({"yes", "no", "on", "off", "true", "false", "null"})  # no text to some reader, in some case
_LONGEST: Final = 100  # a longer key is written in another form


def pipeline_text(document: Mapping[str, JSON]) -> str:
    """The text of a document of tables, lists and texts; keys stay in their order."""
    try:
        return "".join(_table(document, ""))
    except _UnusualKeyError:
        return _dumped({**document})


class _UnusualKeyError(Exception):
    """A key that is not written as it is."""


def _table(table: Mapping[str, JSON], indent: str) -> Iterator[str]:
    for key, value in table.items():
        if not _is_plain(key):
            raise _UnusualKeyError
        yield from _entry(f"{indent}{key}:", value, indent)


def _entry(head: str, value: JSON, indent: str) -> Iterator[str]:
    if isinstance(value, dict):
        yield f"{head}\n" if value else f"{head} {{}}\n"
        yield from _table(value, f"{indent}  ")
    elif isinstance(value, list):
        yield f"{head}\n" if value else f"{head} []\n"
        for item in value:  # not indented below the key
            yield from _item(item, indent)
    else:
        yield f"{head} {_scalar(value)}\n"


def _item(item: JSON, indent: str) -> Iterator[str]:
    if isinstance(item, dict) and item:
        lines = _table(item, f"{indent}  ")
        yield f"{indent}- {next(lines).removeprefix(f'{indent}  ')}"
        yield from lines
    else:
        yield f"{indent}- {_scalar(item)}\n"


def _scalar(value: JSON) -> str:
    if isinstance(value, str):
        return value if _is_plain(value) else _quoted(value)
    return _dumped([value]).removeprefix("- ").removesuffix("\n")


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
