"""A number for each tensor of a network: one for all, one for each selector, or a gradient over depth. Pure.

Forms, as YAML gives them::

    0.4                                       everywhere
    [0.0, 1.0, 0.5]                           a gradient: 0 in the first layer, 1 half-way, 0.5 in the last
    [{value: 0.5}, {on: attention, value: [0, 1]}, {on: {layers: "0-3"}, value: 0}]

Of the tables in a list the last one that means a tensor counts; a tensor that none means has 0. In a gradient, what
comes before the layers has the first value, what comes after them the last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from registry.components import layer_of
from registry.errors import InvalidError
from registry.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from registry.canonical import JSON
    from registry.components import Network, Place

__all__ = ["ONE", "Weighting"]

_KEYS: Final = {"on", "value"}
_FORMS: Final = "a number, a list of numbers over depth, or a list of tables with `on` and `value`"
_MAX_VALUES: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """Values over depth for what a selector means; without one for everything."""

    on: Selector | None
    values: tuple[float, ...]

    def to_json(self) -> dict[str, JSON]:
        value: JSON = self.values[0] if len(self.values) == 1 else list(self.values)
        return {"value": value} if self.on is None else {"on": self.on.to_json(), "value": value}


def _normal(values: tuple[float, ...]) -> tuple[float, ...]:
    """A gradient of one value everywhere is that value; zero has no sign."""
    plain = tuple(value + 0.0 for value in values)
    return plain[:1] if len(set(plain)) == 1 else plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighting:
    """A number for each tensor of a network."""

    rules: tuple[_Rule, ...]

    @classmethod
    def of(cls, value: float) -> Weighting:
        """The same number everywhere."""
        return cls(rules=(_Rule(on=None, values=_normal((float(value),))),))

    @classmethod
    def parse(
        cls, value: object, *, where: str, allowed: Callable[[float], bool] = math.isfinite, expected: str = "a number"
    ) -> Weighting:
        """Read any of the forms.

        Args:
            value: What YAML or JSON gives.
            where: For errors.
            allowed: Whether a number may be used here.
            expected: Those numbers in words.

        Raises:
            InvalidError: It is none of the forms, or a number in it is not allowed.
        """

        def numbers(given: object) -> tuple[float, ...]:
            items: Sequence[object] = given if isinstance(given, list | tuple) else [given]
            found = [number for item in items if (number := _number(item)) is not None and allowed(number)]
            if len(found) < len(items) or not 0 < len(items) <= _MAX_VALUES:
                strange = [item for item in items if (number := _number(item)) is None or not allowed(number)]
                shown = repr(strange[0])[:60] if strange else f"{len(items)} numbers"
                raise InvalidError(f"expected {expected}, got {shown}", where=where, mend=f"write {_FORMS}")
            return _normal(tuple(found))

        if isinstance(value, list | tuple) and value and all(isinstance(one, Mapping) for one in value):
            return cls(rules=tuple(_rule(one, where, numbers) for one in value))
        return cls(rules=(_Rule(on=None, values=numbers(value)),))

    @property
    def constant(self) -> float | None:
        """The number, where it is the same for every tensor."""
        if len(self.rules) == 1 and self.rules[0].on is None and len(self.rules[0].values) == 1:
            return self.rules[0].values[0]
        return None

    @property
    def numbers(self) -> tuple[float, ...]:
        """Every number that it says, in its order; between two of a gradient there are others."""
        return tuple(value for rule in self.rules for value in rule.values)

    @property
    def largest(self) -> float:
        """The largest number that a tensor can have."""
        return max(self.numbers)

    def to_json(self) -> JSON:
        """The normal form: of what says the same value by value, the shortest; tables stay as they are."""
        if len(self.rules) == 1 and self.rules[0].on is None:
            return self.rules[0].to_json()["value"]
        return [rule.to_json() for rule in self.rules]

    def resolve(self, network: Network) -> dict[str, float]:
        """The number of every tensor of a network, by name.

        Raises:
            InvalidError: A selector in it matches nothing.
        """
        found = dict.fromkeys(network.names, 0.0)
        for rule in self.rules:
            names = network.names if rule.on is None else network.select(rule.on)
            for name in names:
                found[name] = _at(rule.values, network.places.get(name), layer_of(name), network.layers)
        return found


ONE: Final = Weighting.of(1.0)


def _rule(table: Mapping[object, object], where: str, numbers: Callable[[object], tuple[float, ...]]) -> _Rule:
    if unknown := sorted(map(str, table.keys() - _KEYS)):
        raise InvalidError(f"unknown key {unknown[0]!r}", where=where, mend="write `on` and `value`")
    if "value" not in table:
        raise InvalidError("missing key 'value'", where=where, mend="add it: the number for what `on` means")
    on = Selector.parse(table["on"], where=f"{where}.on") if "on" in table else None
    return _Rule(on=on, values=numbers(table["value"]))


def _number(value: object) -> float | None:
    """A finite number as a float; ``None`` for all else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _at(values: tuple[float, ...], place: Place | None, layer: int | None, layers: int) -> float:
    """The value of a gradient at a place, or in a layer where no place is known, in a network of so many layers."""
    if layer is None:
        before = place is not None and place.is_in("embedding")
        return values[0] if before else values[-1]
    depth = layer / (layers - 1) if layers > 1 else 0.0
    position = depth * (len(values) - 1)
    lower = min(int(position), len(values) - 1)
    upper = min(lower + 1, len(values) - 1)
    share = position - lower
    return values[lower] if share == 0 else (1 - share) * values[lower] + share * values[upper]
