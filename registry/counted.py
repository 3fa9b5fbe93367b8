"""Numbers of things in words, so that one of them is not called several."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, one: str, several: str = "") -> str:
    """``1 stage``, ``3 stages``.

    Args:
        count: How many.
        one: What a single one is called, with whatever follows it: ``file is``.
        several: The same of several, where that is not ``one`` with an s: ``files are``.
    """
    return f"{count} {one if count == 1 else several or f'{one}s'}"
