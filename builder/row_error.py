"""The RowError: what is wrong with one row of data, before it is known where the row stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import Fault

if TYPE_CHECKING:
    from registry.canonical import JSON

__all__ = ["RowError", "kind_of"]


class RowError(Exception):
    """What is wrong with one row; never what the row says, since data may be private.

    Attributes:
        key: Where in the row.
        problem: What was found.
        mend: What to write instead.
    """

    def __init__(self, key: str, problem: str, mend: str) -> None:
        """Keep what was found."""
        super().__init__(problem)
        self.key = key
        self.problem = problem
        self.mend = mend

    def fault(self, file: str, line: int) -> Fault:
        """The fault of the row at a line of a file."""
        return Fault(file=file, line=line, key=self.key, problem=self.problem, mend=self.mend)


def kind_of(value: JSON) -> str:
    """What a value is; never the value itself, since data may be private."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")
