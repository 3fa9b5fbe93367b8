"""The tables of docs/manifest.md: one line for each key, made from the dataclasses that read it."""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, cast

from builder import (
    adapter_settings,
    manifest,
    online_settings,
    reward_settings,
    settings,
    train_settings,
    weight_stages,
)
from builder.compound import OneOf, TableShape
from builder.tables import shape_of
from builder.weighting import Weighting
from registry.canonical import encode
from registry.selector import Selector

if TYPE_CHECKING:
    from builder.compound import Field

__all__ = ["key_table", "with_tables"]

_BLOCK = re.compile(r"(<!-- keys: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text: str) -> str:
    """The document with each block ``<!-- keys: Name -->`` ... ``<!-- end -->`` filled with that table's keys.

    Raises:
        AttributeError: A block names a dataclass that does not exist.
    """
    return _BLOCK.sub(lambda block: f"{block[1]}{key_table(block[2])}{block[3]}", text)


def key_table(name: str) -> str:
    """A Markdown table of a dataclass's keys.

    Raises:
        AttributeError: There is no such dataclass.
    """
    modules = (manifest, adapter_settings, settings, weight_stages, online_settings, reward_settings, train_settings)
    module = next(one for one in modules if hasattr(one, name))
    shape = cast("TableShape", shape_of(getattr(module, name)))
    lines = [f"| `{one.key}` | {_value(one)} | {_default(one)} | {one.doc} |" for one in shape.fields]
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *lines, ""])


def _value(one: Field) -> str:
    """What a key holds; a table's keys have a table of their own."""
    named = isinstance(one.shape, OneOf) and one.shape.by
    return "a table" if isinstance(one.shape, TableShape) or named else one.shape.expected


def _default(one: Field) -> str:
    if one.required:
        return "required"
    if one.optional or one.default in ("", {}):
        return "absent"
    if isinstance(one.shape, TableShape) and is_dataclass(one.default):
        return "its own defaults"
    value = one.default.to_json() if isinstance(one.default, Selector | Weighting) else one.default
    return f"`{encode(value).decode()}`" if not isinstance(value, str) else f"`{value}`"
