"""The key of a row: what makes two rows one and the same to learn or to measure on. Pure.

A text counts by itself, a conversation by all of its messages, anything with a prompt by its prompt: two preferences on
one prompt are apart, and yet one tells of the other. Case and white space do not count.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from registry.canonical import encode

if TYPE_CHECKING:
    from builder.row_shapes import Row
    from registry.canonical import JSON

__all__ = ["is_held_out", "row_key"]

_KEY_BYTES = 16
_SCALE = 1 << 64
_CONTENT = {"text": "text", "messages": "messages"}


def row_key(format: str, row: Row) -> bytes:  # noqa: A002 - the manifest's word
    """Sixteen bytes, equal for rows that are one and the same.

    Args:
        format: One of :data:`builder.row_shapes.FORMATS`.
        row: A row in it.
    """
    return blake2b(encode(_folded(row[_CONTENT.get(format, "prompt")])), digest_size=_KEY_BYTES).digest()


def is_held_out(key: bytes, share: float) -> bool:
    """Whether a row is among the share that is held out: told by its key alone, so rows that are added move none."""
    return int.from_bytes(key[:8], "big") < share * _SCALE


def _folded(value: JSON) -> JSON:
    """A text, or messages by role and content, without case and with single spaces."""
    if isinstance(value, str):
        return " ".join(value.split()).casefold()
    if isinstance(value, list):
        return [_folded(one) for one in value]
    if isinstance(value, dict):
        return [_folded(value["role"]), _folded(value["content"])]
    return value
