"""A parameter of a mergekit file -> our weighting, equal for every tensor. Pure.

There the first condition whose ``filter`` is in a tensor's name counts, here the last entry that means a tensor; a
gradient runs over the layers of a slice there, and what lies outside of the layers has its first value. So conditions
are turned round, and a gradient is written as its first value, followed by the layers' own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from registry.yaml12 import KeyPath  # noqa: TC001 - a field's type

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.shapes import Reading
    from registry.canonical import JSON

__all__ = ["Condition", "Setting", "Slice", "flag_of", "number_of", "read_setting", "weighting_of"]

_ALL_LAYERS: Final = "0--1"
_SPECIAL: Final = frozenset("*?[]")


class _Refuse(Protocol):
    def __call__(self, path: KeyPath, problem: str, mend: str) -> object: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """A value for the tensors with a text in their names.

    Attributes:
        filter: The text; empty for every tensor.
        values: One value, or a gradient over the layers of a slice.
    """

    filter: str
    values: tuple[bool | float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """All that is said on one parameter in one place, the first condition that fits counts.

    Attributes:
        path: Where it stands, for faults.
        conditions: In their order; nothing after one for every tensor.
    """

    path: KeyPath = field(compare=False)
    conditions: tuple[Condition, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every tensor has a value."""
        return bool(self.conditions) and not self.conditions[-1].filter

    @property
    def is_flat(self) -> bool:
        """Whether no value changes over the layers."""
        return all(len(one.values) == 1 for one in self.conditions)

    def over(self, lower: Setting) -> Setting:
        """With what another place says where this one says nothing."""
        return self if self.is_complete else Setting(path=self.path, conditions=(*self.conditions, *lower.conditions))


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Where a slice's layers come to lie.

    Attributes:
        start: First layer of the result.
        count: How many; 0 where that is for the model to say.
        whole: Whether they are all layers of the result.
        moved: Whether a layer's number is another one in a model than in the result.
    """

    start: int = 0
    count: int = 0
    whole: bool = True
    moved: bool = False

    @property
    def layers(self) -> str:
        """As a selector says it."""
        last = self.start + self.count - 1
        return _ALL_LAYERS if not self.count else str(self.start) if last == self.start else f"{self.start}-{last}"


def read_setting(value: JSON, path: KeyPath, reading: Reading, *, flags: bool) -> Setting | None:
    """Read any of mergekit's forms.

    Args:
        value: A value, a list of them, or one or more tables with ``value`` and ``filter``.
        path: Where it stands.
        reading: Takes the faults.
        flags: Whether values are true or false, rather than numbers.

    Returns:
        The setting; ``None`` where a fault was found.
    """
    before = len(reading.faults)
    listed = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    tables: list[tuple[KeyPath, Mapping[str, JSON]]] = [(path, value if isinstance(value, dict) else {"value": value})]
    if listed and isinstance(value, list) and len(listed) == len(value):
        tables = [((*path, index), one) for index, one in enumerate(listed)]
    conditions: list[Condition] = []
    for place, table in tables:
        if (found := _condition(table, place, reading, flags=flags)) is not None:
            conditions.append(found)
            if not found.filter:
                break  # nothing after it ever counts
    return Setting(path=path, conditions=tuple(conditions)) if len(reading.faults) == before else None


def flag_of(setting: Setting, refuse: _Refuse) -> bool | float | None:
    """The one value of a parameter that has no gradients and no filters here."""
    first = setting.conditions[0]
    if len(setting.conditions) > 1 or first.filter or len(first.values) > 1:
        refuse(setting.path, "it differs among tensors", "write one value for all, or blend in several stages")
        return None
    return first.values[0]


def number_of(value: float) -> JSON:
    """A number as a manifest writes it."""
    return float(value)


def weighting_of(parts: Sequence[tuple[Slice, Setting]], *, ends: tuple[bool, bool], refuse: _Refuse) -> JSON:
    """The weighting that gives every tensor the value that mergekit gives it.

    Args:
        parts: What is said on each slice that matters; one for a model that is taken as a whole.
        ends: Whether the first of them is the first slice of all, and the last the last of all: those two say what
            holds outside of the layers, before them and after them.
        refuse: Takes what cannot be said.
    """
    for where, setting in parts:
        for condition in setting.conditions:
            if where.moved and any(letter.isdigit() for letter in condition.filter):
                problem = f"filter {condition.filter!r} may mean a layer by its number, and the slice moves layers"
                refuse(setting.path, problem, "write a filter without digits, or the layers' own slices")
    first, last = parts[0][1], parts[-1][1]
    if parts[0][0].whole:
        return _plain(_whole(parts[0][0], first))
    if first.is_flat and all(setting == first for _, setting in parts):
        return _plain(_flat(first, ""))
    rules = _flat(last if ends[1] or not ends[0] else first, "")
    if all(ends) and _outside(first) != _outside(last):
        if len(first.conditions) > 1 or first.conditions[0].filter:
            refuse(first.path, "it means other values for the embedding than for the head", "write one value there")
        else:
            rules.append({"on": "embedding", "value": number_of(first.conditions[0].values[0])})
    for where, setting in parts:
        rules += _layered(where, setting)
    return _plain(rules)


def _condition(table: Mapping[str, JSON], path: KeyPath, reading: Reading, *, flags: bool) -> Condition | None:
    before = len(reading.faults)
    for key in table:
        if key not in {"filter", "value"}:
            reading.fault((*path, key), f"unknown key {key!r}", "keys here: filter, value")
    text = table.get("filter")
    if text is not None and (not isinstance(text, str) or not text):
        reading.fault((*path, "filter"), "a filter that is no text", "write a part of a tensor's name")
    elif isinstance(text, str) and text != "*" and "*" in text:
        mend = "write the text without the star: a filter fits anywhere in a name"
        reading.fault((*path, "filter"), f"filter {text!r} never fits: mergekit takes the star as it is", mend)
    if "value" not in table:
        reading.fault(path, "missing key 'value'", "add it")
    value = table.get("value")
    values = value if isinstance(value, list) else [value]
    if "value" in table and (not values or not all(_fits(one, flags=flags) for one in values)):
        kind = "true or false" if flags else "a number or a list of numbers"
        reading.fault((*path, "value") if "filter" in table else path, f"expected {kind}", f"write {kind}")
    if len(reading.faults) > before:
        return None
    plain = tuple(one for one in values if isinstance(one, bool | int | float))
    return Condition(filter="" if text in (None, "*") else str(text), values=plain)


def _fits(value: JSON, *, flags: bool) -> bool:
    if flags or isinstance(value, bool):
        return flags and isinstance(value, bool)
    return isinstance(value, int | float) and math.isfinite(value)


def _whole(where: Slice, setting: Setting) -> list[dict[str, JSON]]:
    """Over all layers of a network: a gradient of ours is then one of theirs."""
    rules: list[dict[str, JSON]] = []
    for condition in reversed(setting.conditions):
        values = condition.values
        rules.append(_rule(condition.filter, "", values[:1]))
        if len(set(values)) > 1:
            over = values[-1:] if where.count == 1 else values
            rules.append(_rule(condition.filter, _ALL_LAYERS, over))
    return rules


def _flat(setting: Setting, layers: str) -> list[dict[str, JSON]]:
    """The value that holds outside of the layers: of a gradient the first."""
    return [_rule(one.filter, layers, one.values[:1]) for one in reversed(setting.conditions)]


def _outside(setting: Setting) -> tuple[tuple[str, bool | float], ...]:
    return tuple((one.filter, one.values[0]) for one in setting.conditions)


def _layered(where: Slice, setting: Setting) -> list[dict[str, JSON]]:
    """Values of the layers of one slice; those of a gradient one by one."""
    rules: list[dict[str, JSON]] = []
    for condition in reversed(setting.conditions):
        if len(set(condition.values)) == 1:
            rules.append(_rule(condition.filter, where.layers, condition.values[:1]))
            continue
        for index in range(where.count):
            at = index / (where.count - 1) if where.count > 1 else 1.0
            rules.append(_rule(condition.filter, str(where.start + index), (_between(condition.values, at),)))
    return rules


def _between(values: Sequence[float], at: float) -> float:
    """A gradient's value at a depth from 0 to 1, with the operations of mergekit and of our own gradients."""
    position = at * (len(values) - 1)
    lower = int(position)
    upper = min(lower + 1, len(values) - 1)
    share = position - lower
    return values[lower] if share == 0 else (1 - share) * values[lower] + share * values[upper]


def _rule(text: str, layers: str, values: Iterable[float]) -> dict[str, JSON]:
    """An entry of a weighting."""
    numbers = [number_of(one) for one in values]
    value: JSON = numbers[0] if len(numbers) == 1 else [*numbers]
    glob = f"*{''.join(f'[{letter}]' if letter in _SPECIAL else letter for letter in text)}*" if text else "*"
    if layers:
        return {"on": {"layers": layers, "tensors": [glob]}, "value": value}
    return {"on": glob, "value": value} if text else {"value": value}


def _plain(rules: list[dict[str, JSON]]) -> JSON:
    """A lone number instead of a list with one rule for everything."""
    return rules[0]["value"] if len(rules) == 1 and "on" not in rules[0] else [*rules]
