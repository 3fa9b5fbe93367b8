"""What a file of reward functions must be before anybody runs it: Python that defines the function. Nothing is run."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.shapes import nearest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_CODE_BYTES", "Functions", "read_functions"]

MAX_CODE_BYTES = 1 << 20
"""Largest file of reward functions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Functions:
    """The functions of a file.

    Attributes:
        names: Those that the file defines at its top.
        problem: Why the file cannot be used; empty where it can.
    """

    names: frozenset[str] = frozenset()
    problem: str = ""

    def fault(self, function: str) -> tuple[str, str]:
        """What is wrong with asking for a function, and how to mend it; empty where nothing is."""
        if self.problem:
            return self.problem, "write a file of Python, at most 1 MiB of UTF-8, that git keeps"
        if function not in self.names:
            mend = nearest(function, self.names, "functions in it")
            return f"the file defines no function {function!r}", f"{mend}; what it imports does not count"
        return "", ""


def read_functions(root: Path, path: str) -> Functions:
    """The functions that a file defines; it is parsed, not run.

    Args:
        root: Root of the repository.
        path: The file, from the root.
    """
    file, home = root / path, root.resolve()
    try:
        if file.resolve() != home / path:
            return Functions(problem=f"{path} is a link")
        data = file.read_bytes()
    except FileNotFoundError:
        return Functions(problem=f"{path} does not exist")
    except (OSError, RuntimeError):  # a folder; links in a circle
        return Functions(problem=f"{path} is no file that can be read")
    if len(data) > MAX_CODE_BYTES:
        return Functions(problem=f"{path} has {len(data)} bytes")
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        return Functions(problem=f"{path} is not valid Python{line}")
    return Functions(names=frozenset(one.name for one in tree.body if isinstance(one, ast.FunctionDef)))
