"""One canonical JSON: the same value gives the same bytes, and only strict documents are read."""

from __future__ import annotations

import json
import math
from typing import NoReturn, TypeAlias

from registry.errors import InvalidError

__all__ = ["JSON", "MAX_BYTES", "decode", "encode", "pretty"]

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

MAX_BYTES = 64 << 20
_MAX_DEPTH = 64


def encode(value: object) -> bytes:
    """Compact form, the one that is hashed: sorted keys, no spaces, UTF-8.

    Floats print as Python's shortest form that reads back equal.

    Raises:
        ValueError: NaN or an infinity is in it.
        TypeError: Something that JSON cannot say is in it.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def pretty(value: object) -> bytes:
    """Readable form, the one that lies in files and in git: sorted keys, two spaces, a final newline.

    Raises:
        ValueError: NaN or an infinity is in it.
        TypeError: Something that JSON cannot say is in it.
    """
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def decode(data: bytes, *, where: str, max_bytes: int = MAX_BYTES) -> JSON:
    """Read strict JSON: no duplicate key, no NaN, no depth beyond 64, no more than ``max_bytes``.

    Args:
        data: The document, UTF-8.
        where: Named in the error.
        max_bytes: Limit on the document's size.

    Raises:
        InvalidError: The document breaks one of these rules.
    """
    if len(data) > max_bytes:
        raise _invalid(f"document of {len(data)} bytes, at most {max_bytes} are read", where)
    if _depth(data) > _MAX_DEPTH:
        raise _invalid(f"document nested deeper than {_MAX_DEPTH}", where)
    try:
        value: JSON = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
        _refuse_surrogates(value, data)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise _invalid(f"not strict JSON: {error}", where) from error
    return value


def _depth(data: bytes) -> int:
    """Deepest nesting of brackets, those in strings too: an upper bound that needs no parser."""
    depth = deepest = 0
    for byte in data.translate(None, delete=_NOT_BRACKETS):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        message = f"key {double!r} twice in one object"
        raise ValueError(message)
    return table


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        message = f"{text} is no finite number"
        raise ValueError(message)
    return value


def _refuse_surrogates(value: JSON, data: bytes) -> None:
    """A lone surrogate can be read but never written again; only an escape can bring one in."""
    if b"\\u" not in data:
        return
    try:
        encode(value)
    except UnicodeEncodeError as error:
        message = "a lone surrogate is no text"
        raise ValueError(message) from error


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise ValueError(message)


def _invalid(what: str, where: str) -> InvalidError:
    return InvalidError(what, where=where, mend="fetch or write the document again; it is not in canonical JSON")
