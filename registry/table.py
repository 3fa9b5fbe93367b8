"""Typed getters over a decoded JSON table: each names the key that it did not like."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar, cast

from registry.digest import Digest
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.canonical import JSON

__all__ = ["Table"]

_Choice = TypeVar("_Choice", bound=str)


class Table:
    """A JSON object being read.

    Attributes:
        where: The document and the key path of this table, for errors.
    """

    __slots__ = ("_value", "where")

    def __init__(self, value: JSON, where: str) -> None:
        """Wrap a decoded value.

        Raises:
            InvalidError: It is not a JSON object.
        """
        if not isinstance(value, dict):
            raise InvalidError(
                f"expected a table, got {_kind(value)}", where=where, mend="fetch or write the document again"
            )
        self._value = value
        self.where = where

    def only(self, *keys: str) -> None:
        """Refuse missing and unknown keys.

        Raises:
            InvalidError: The keys are not exactly these.
        """
        if unknown := sorted(set(self._value) - set(keys)):
            raise self._wrong(", ".join(unknown), "a key of this schema", "an unknown key")
        if missing := sorted(set(keys) - set(self._value)):
            raise self._wrong(", ".join(missing), "a value", "nothing")

    def raw(self, key: str) -> JSON:
        """The value as it is."""
        return self._value[key]

    def text(self, key: str) -> str:
        """A string."""
        value = self._value[key]
        if not isinstance(value, str):
            raise self._wrong(key, "text", _kind(value))
        return value

    def constant(self, key: str, expected: str) -> None:
        """A string that can be only this."""
        value = self.text(key)
        if value != expected:
            raise self._wrong(key, repr(expected), repr(value))

    def choice(self, key: str, choices: tuple[_Choice, ...]) -> _Choice:
        """One string of a few."""
        value = self.text(key)
        if value not in choices:
            raise self._wrong(key, " or ".join(map(repr, choices)), repr(value))
        return value

    def count(self, key: str) -> int:
        """A whole number from 0."""
        value = self._value[key]
        if not _is_count(value):
            raise self._wrong(key, "a whole number from 0", repr(value))
        return cast("int", value)

    def counts(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers from 0."""
        values = self._list(key)
        if not all(map(_is_count, values)):
            raise self._wrong(key, "whole numbers from 0", repr(values))
        return tuple(cast("list[int]", values))

    def number(self, key: str) -> float:
        """A finite number."""
        value = self._value[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self._wrong(key, "a finite number", repr(value))
        return value

    def digest(self, key: str) -> Digest:
        """A digest."""
        return Digest.parse(self._value[key], where=f"{self.where}: {key}")

    def optional_digest(self, key: str) -> Digest | None:
        """A digest or null."""
        return None if self._value[key] is None else self.digest(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._list(key)
        texts = tuple(value for value in values if isinstance(value, str))
        if len(texts) != len(values):
            raise self._wrong(key, "a list of text", "something else in it")
        return texts

    def table(self, key: str) -> Table:
        """A table inside this one."""
        return Table(self._value[key], f"{self.where}: {key}")

    def single(self, key: str) -> Table:
        """The one table in a list of one."""
        rows = tuple(self.rows(key))
        if len(rows) != 1:
            raise self._wrong(key, "a list of one table", f"{len(rows)}")
        return rows[0]

    def exactly(self, key: str, count: int) -> tuple[str, ...]:
        """A list of so many strings."""
        values = self.texts(key)
        if len(values) != count:
            raise self._wrong(key, f"{count} of text", f"{len(values)}")
        return values

    def mapping(self, key: str) -> dict[str, JSON]:
        """A table inside this one, as plain values."""
        value = self._value[key]
        if not isinstance(value, dict):
            raise self._wrong(key, "a table", _kind(value))
        return value

    def rows(self, key: str) -> Iterator[Table]:
        """A list of tables."""
        values = self._list(key)
        return (Table(value, f"{self.where}: {key}[{index}]") for index, value in enumerate(values))

    def names(self) -> tuple[str, ...]:
        """The keys, sorted."""
        return tuple(sorted(self._value))

    def _list(self, key: str) -> list[JSON]:
        values = self._value[key]
        if not isinstance(values, list):
            raise self._wrong(key, "a list", _kind(values))
        return values

    def _wrong(self, key: str, expected: str, got: str) -> InvalidError:
        return InvalidError(
            f"{key}: expected {expected}, got {got}", where=self.where, mend="fetch or write the document again"
        )


def _is_count(value: JSON) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _kind(value: JSON) -> str:
    names = {dict: "a table", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
