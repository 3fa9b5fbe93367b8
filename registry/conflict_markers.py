"""Whether a merge that nobody finished left its conflict markers in a text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["conflict_line", "left_markers"]

_MARK = re.compile(r"^(?:<{7}|={7}|>{7})(?: .*)?\r?$", re.MULTILINE)


def conflict_line(text: str | bytes) -> int:
    """Line of the first conflict marker, counted from 1; 0 where there is none."""
    decoded = text.decode("latin-1") if isinstance(text, bytes) else text
    found = _MARK.search(decoded)
    return decoded.count("\n", 0, found.start()) + 1 if found else 0


def left_markers(root: Path, paths: Iterable[str]) -> str:
    """What to add to a word on stale files: in which of them a merge left its conflict markers; empty without any.

    Args:
        root: Root of the repository.
        paths: Files, from the root; those that are not there have none.
    """
    marked = [path for path in paths if (root / path).is_file() and conflict_line((root / path).read_bytes())]
    return f", since a merge left its conflict markers in {', '.join(marked)}" if marked else ""
