"""The documents of a mergekit file, each with the lines that its keys have there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from builder.shapes import Reading, nearest, shown
from registry import yaml12

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.canonical import JSON
    from registry.yaml12 import KeyPath

__all__ = ["Document", "read_documents"]

_MARK: Final = re.compile(r"---(?:\s|$)")
_REFUSED: Final = {
    "modules": "write it without modules: one list of models or slices",
    "residual_weight": "leave it out",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One merge.

    Attributes:
        table: Its value.
        reading: Its lines, and the faults found so far.
    """

    table: Mapping[str, JSON]
    reading: Reading

    @property
    def name(self) -> str:
        """What other documents call it; empty where they cannot."""
        name = self.table.get("name")
        return name if isinstance(name, str) else ""

    def fault(self, path: KeyPath, problem: str, mend: str) -> object:
        """Report what cannot be said."""
        return self.reading.fault(path, problem, mend)

    def check_keys(self, table: Mapping[str, JSON], path: KeyPath, known: Sequence[str]) -> None:
        """Report every key of a table that is not known, or known but refused."""
        for key, value in table.items():
            if key in _REFUSED:
                if value is not None:
                    self.fault((*path, key), f"{key} cannot be translated", _REFUSED[key])
            elif key not in known:
                self.fault((*path, key), f"unknown key {key!r}", nearest(key, known, "keys here"))


def read_documents(text: str, file: str) -> Iterator[Document]:
    """The documents of a file; parts without content are passed over.

    Raises:
        InvalidError: One of them is no YAML.
    """
    lines = text.splitlines(keepends=True)
    marks = [number for number, line in enumerate(lines) if _MARK.match(line)]
    for start, stop in pairwise([0, *marks, len(lines)]):
        body = lines[start:stop]
        if body:
            body[0] = _MARK.sub("   \n", body[0]) if body[0].strip() == "---" else body[0]
        if not any(line.strip() and not line.lstrip().startswith("#") for line in body):
            continue
        read = yaml12.load("\n" * start + "".join(body), file)
        reading = Reading(file=file, lines=read.lines)
        if not isinstance(read.value, dict):
            reading.fault((), f"expected a table, got {shown(read.value)}", "write a merge of mergekit")
        yield Document(table=read.value if isinstance(read.value, dict) else {}, reading=reading)
