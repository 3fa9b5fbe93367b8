"""What a file of rows is, told by its name alone. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["PACKINGS", "form_of", "is_one_row"]

PACKINGS: Final = ("gz", "bz2", "xz", "zst")
"""Last parts of the names of compressed files."""


def form_of(name: str) -> str:
    """The last part of a name that says what is in the file, less what it is packed with.

    Args:
        name: Name of the file, or its path.
    """
    parts = name.lower().rpartition("/")[2].split(".")
    packed = len(parts) > 1 and parts[-1] in PACKINGS
    return parts[-2] if packed and len(parts) > 2 else parts[-1]  # noqa: PLR2004 - name, form, packing


def is_one_row(name: str) -> bool:
    """Whether all of a file is one row, a text, whatever its bytes look like.

    Args:
        name: Name of the file, or its path.
    """
    return form_of(name) in {"txt", "md"}
