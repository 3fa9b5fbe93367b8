"""What every verb does with its words: answers on stdout, talk on stderr; and where it stands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from registry.canonical import pretty
from registry.terminal import Json, harmless

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.canonical import JSON

__all__ = ["Json", "answer", "repository_root", "say"]


def answer(json: bool, value: JSON, lines: Sequence[str]) -> None:  # noqa: FBT001 - named at no call
    """Print an answer, in the form that was asked for."""
    text = pretty(value).decode() if json else "".join(f"{harmless(line)}\n" for line in lines)
    sys.stdout.write(text)
    sys.stdout.flush()


def say(line: str) -> None:
    """Tell the person at the terminal; an error has several lines."""
    sys.stderr.write("".join(f"{harmless(one)}\n" for one in line.split("\n")))


def repository_root() -> Path:
    """Root of the repository that the command was called in.

    Raises:
        NotFoundError: It was called in none.
    """
    from registry.history import find_root  # noqa: PLC0415 - not needed by every verb

    return find_root(Path.cwd())
