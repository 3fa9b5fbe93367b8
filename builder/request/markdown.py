"""Text that others wrote, in a comment that people read: it shows as it is, and does nothing. Pure."""

from __future__ import annotations

import re

__all__ = ["code", "plain"]

_RUNS = re.compile(r"`+")
_WORDS = re.compile(r"[A-Za-z0-9 ,;()=%+]|(?<=\d)\.(?=\d)|(?<=\w)-(?=\w)")


def code(text: str) -> str:
    """A text as a code span, which has no links, mentions, pictures or HTML in it; good in a table too."""
    visible = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    if not visible.strip():
        return "` `"
    fence = "`" * (max(map(len, _RUNS.findall(visible)), default=0) + 1)
    space = " " if visible[0] in "` " or visible[-1] in "` " else ""
    return f"{fence}{space}{visible}{space}{fence}".replace("|", "\\|")


def plain(text: str) -> str:
    """A text of ours with others' words in it: whatever could mean something to Markdown is put in a code span."""
    return text if len(_WORDS.findall(text)) == len(text) else code(text)
