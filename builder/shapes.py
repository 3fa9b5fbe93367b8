"""What a single value may be: each shape reads it, reports what is wrong with it, and knows its JSON Schema.

Reader and schema of a shape stand side by side, so that the two cannot say different things.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

from builder.weighting import Weighting
from registry.errors import Fault, InvalidError
from registry.selector import COMPONENTS, Selector
from registry.yaml12 import dotted, line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from registry.canonical import JSON
    from registry.yaml12 import KeyPath

__all__ = [
    "BROKEN",
    "Boolean",
    "Choice",
    "Number",
    "Reading",
    "Schema",
    "SelectorForm",
    "Shape",
    "Text",
    "WeightingForm",
    "nearest",
    "shown",
    "unexpected",
]

Schema: TypeAlias = "dict[str, JSON]"

BROKEN: Final = object()
"""Stands for a value that could not be read; its fault is in the reading."""


@dataclass(kw_only=True, slots=True)
class Reading:
    """One document being read: where its keys stand, and what was wrong so far.

    Attributes:
        file: Path of the document, relative to the repository.
        lines: Line of each key, by key path.
        faults: Grows while reading.
    """

    file: str
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, path: KeyPath, problem: str, mend: str) -> object:
        """Report one fault.

        Returns:
            ``BROKEN``, so that a reader can report and give up in one line.
        """
        line = line_of(self.lines, path)
        self.faults.append(Fault(file=self.file, line=line, key=dotted(path), problem=problem, mend=mend))
        return BROKEN

    def refuse(self, error: InvalidError, path: KeyPath) -> object:
        """Report a value that its own reader refused.

        Returns:
            ``BROKEN``.
        """
        line = line_of(self.lines, path)
        fault = Fault(file=self.file, line=line, key=error.where, problem=error.what, mend=error.mend)
        self.faults.append(fault)
        return BROKEN


class Shape(Protocol):
    """What a value may be."""

    @property
    def expected(self) -> str:
        """The shape in words, to stand after "expected"."""

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """The typed value, or ``BROKEN`` with a fault in ``reading``."""

    def schema(self, definitions: dict[str, JSON]) -> Schema:
        """JSON Schema of the shape; tables put theirs into ``definitions`` and refer to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A string.

    Attributes:
        pattern: Regular expression that the whole string must match.
        expected: The pattern in words.
        reserved: Strings that are kept for another meaning.
        max_length: In characters.
        mend: Advice on a string that does not fit; empty for "write" and the expectation.
        make: Makes the value of the checked string.
    """

    pattern: str = ""
    expected: str = "text"
    reserved: tuple[str, ...] = ()
    max_length: int = 4096
    mend: str = ""
    make: Callable[[str], object] = str

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """The string, made into what it stands for."""
        if not isinstance(value, str):
            quote = isinstance(value, int | float)
            return unexpected(self, value, path, reading, "put it in quotes" if quote else "")
        if value in self.reserved:
            return reading.fault(path, f"{value!r} is reserved", "choose another name")
        if len(value) > self.max_length:
            problem = f"expected at most {self.max_length} characters, got {len(value)}"
            return reading.fault(path, problem, "shorten it")
        if self.pattern and re.fullmatch(self.pattern, value) is None:
            return unexpected(self, value, path, reading, self.mend)
        return self.make(value)

    def schema(self, _definitions: dict[str, JSON]) -> Schema:
        """A string with its pattern and its reserved words."""
        schema: Schema = {"type": "string", "maxLength": self.max_length}
        if self.pattern:
            schema["pattern"] = f"^(?:{self.pattern})$"
        if self.reserved:
            schema["not"] = {"enum": list(self.reserved)}
        return schema


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A finite number, made a float, or with ``integer`` an int; true and false are no numbers.

    Attributes:
        integer: Whether it is a whole number; ``2.0`` is one.
        minimum: Lowest value.
        above: Value that it must be greater than.
        maximum: Highest value.
        below: Value that it must be less than.
    """

    integer: bool = False
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None

    @property
    def expected(self) -> str:
        """Such as ``an integer from 1 to 4096``."""
        noun = "an integer" if self.integer else "a number"
        lowest = {"above": self.above, "from": self.minimum}
        highest = {"below": self.below, "up to" if self.minimum is None else "to": self.maximum}
        low = [f"{word} {bound:.12g}" for word, bound in lowest.items() if bound is not None]
        high = [f"{word} {bound:.12g}" for word, bound in highest.items() if bound is not None]
        joint = " " if self.above is None and self.below is None else ", "
        return f"{noun} {joint.join(low + high)}".rstrip()

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """The number in its declared type."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return unexpected(self, value, path, reading, _unquoted(value))
        number = _as_float(value)
        if not self.holds(number):
            return unexpected(self, value, path, reading)
        return int(value) if self.integer else number

    def holds(self, value: float) -> bool:
        """Whether a number keeps the bounds."""
        if not math.isfinite(value) or (self.integer and not value.is_integer()):
            return False
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
        )

    def schema(self, _definitions: dict[str, JSON]) -> Schema:
        """A number or an integer with its bounds."""
        bounds = {
            "minimum": self.minimum,
            "exclusiveMinimum": self.above,
            "maximum": self.maximum,
            "exclusiveMaximum": self.below,
        }
        given: Schema = {key: bound for key, bound in bounds.items() if bound is not None}
        return {"type": "integer" if self.integer else "number"} | given


@dataclass(frozen=True, kw_only=True, slots=True)
class Boolean:
    """True or false."""

    expected: str = "true or false"

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """The truth value; no number and no word stands for one."""
        return value if isinstance(value, bool) else unexpected(self, value, path, reading)

    def schema(self, _definitions: dict[str, JSON]) -> Schema:
        """A boolean."""
        return {"type": "boolean"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of a few words or numbers."""

    values: tuple[str | int, ...]

    @property
    def expected(self) -> str:
        """The values, as they are written."""
        return " or ".join(map(str, self.values))

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """The value; ``1.0`` stands for ``1``, true does not."""
        if isinstance(value, str | int | float) and value is not True and value in self.values:
            return self.values[self.values.index(value)]
        return unexpected(self, value, path, reading, _meant(value, map(str, self.values)))

    def schema(self, _definitions: dict[str, JSON]) -> Schema:
        """An enumeration."""
        return {"enum": list(self.values)}


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectorForm:
    """A selector of components, layers and tensors; its grammar is in ``registry.selector``."""

    expected: str = "a selector: a component, a tensor glob, a list of them, or a table"

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """The selector."""
        try:
            return Selector.parse(value, where=dotted(path))
        except InvalidError as error:
            return reading.refuse(error, path)

    def schema(self, definitions: dict[str, JSON]) -> Schema:
        """The forms of a selector."""
        definitions["Selector"] = _selector_schema()
        return {"$ref": "#/$defs/Selector"}


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightingForm:
    """A number for each tensor; its grammar is in ``builder.weighting``.

    Attributes:
        number: What each number may be.
    """

    number: Number = field(default_factory=Number)

    @property
    def expected(self) -> str:
        """The forms in short."""
        return f"{self.number.expected}, a list of them over depth, or tables with `on` and `value`"

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """The weighting."""
        if not isinstance(value, list):
            found = self.number.read(value, path, reading)
            return found if found is BROKEN else Weighting.of(cast("float", found))
        try:
            return Weighting.parse(value, where=dotted(path), allowed=self.number.holds, expected=self.number.expected)
        except InvalidError as error:
            return reading.refuse(error, path)

    def schema(self, definitions: dict[str, JSON]) -> Schema:
        """The forms of a weighting."""
        name = re.sub("[^A-Za-z0-9.-]+", "-", f"Weighting {self.number.expected}")
        definitions[name] = self._definition(definitions)
        return {"$ref": f"#/$defs/{name}"}

    def _definition(self, definitions: dict[str, JSON]) -> Schema:
        number = self.number.schema(definitions)
        numbers: JSON = {"type": "array", "minItems": 1, "maxItems": 1000, "items": number}
        value: JSON = {"anyOf": [number, numbers]}
        table: JSON = {
            "type": "object",
            "properties": {"on": SelectorForm().schema(definitions), "value": value},
            "required": ["value"],
            "additionalProperties": False,
        }
        return {
            "description": "A number for each tensor: one for all, a gradient over depth, or numbers for selectors.",
            "anyOf": [number, numbers, {"type": "array", "minItems": 1, "items": table}],
        }


def nearest(word: str, words: Iterable[str], called: str) -> str:
    """Advice on a misspelt name: the one most like it, else all of them.

    Args:
        word: What was found.
        words: What there is.
        called: What ``words`` are, in the plural.
    """
    known = sorted(words)
    if not known:
        return f"there are no {called}"
    if like := difflib.get_close_matches(word, known, n=1):
        return f"did you mean {like[0]!r}?"
    return f"{called}: {', '.join(known)}"


def unexpected(shape: Shape, value: JSON, path: KeyPath, reading: Reading, mend: str = "") -> object:
    """Report a value that is not of its shape; without advice, the shape itself is the advice."""
    if value is None:
        mend = "write a value, or leave the key out"
    return reading.fault(path, f"expected {shape.expected}, got {shown(value)}", mend or f"write {shape.expected}")


def shown(value: JSON) -> str:
    """What was found, short enough for one line."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"a table with {', '.join(value)}"[:80] if value else "an empty table"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        shown = value if len(value) <= 60 else f"{value[:57]}..."  # noqa: PLR2004 - fits a line
        return f"text {shown!r}"
    return str(value).lower() if isinstance(value, bool) else f"{value!r:.60}"


def _as_float(value: float) -> float:
    """The nearest float; an integer beyond all floats is an infinity."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _unquoted(value: JSON) -> str:
    """Advice for a number written as text."""
    try:
        float(cast("str", value))
    except (TypeError, ValueError):
        return ""
    return "" if isinstance(value, bool) else "take the quotes away"


def _meant(value: JSON, words: Iterable[str]) -> str:
    """Advice for a misspelt word."""
    like = difflib.get_close_matches(value, list(words), n=1) if isinstance(value, str) else []
    return f"did you mean {like[0]!r}?" if like else ""


def _selector_schema() -> Schema:
    component: JSON = {"enum": list(COMPONENTS)}
    tensor: JSON = {"type": "string", "pattern": r"[*?\[]|^.+\.(?:weight|bias)$|^(?:.+\.)?[0-9]+\..+$"}
    layer = r"\s*-?[0-9]{1,6}(?:--?[0-9]{1,6})?\s*"
    layer_number: JSON = {"type": "integer", "minimum": -999_999, "maximum": 999_999}
    layer_text: JSON = {"type": "string", "pattern": f"^{layer}(?:,{layer})*$"}
    selector: JSON = {"$ref": "#/$defs/Selector"}
    table: JSON = {
        "type": "object",
        "minProperties": 1,
        "properties": {
            "components": _one_or_some(component),
            "layers": _one_or_some({"anyOf": [layer_number, layer_text]}),
            "tensors": _one_or_some({"type": "string", "minLength": 1}),
            "exclude": selector,
        },
        "additionalProperties": False,
    }
    return {
        "description": "Which components, layers and tensors of a network are meant.",
        "anyOf": [component, tensor, {"type": "array", "minItems": 1, "items": selector}, table],
    }


def _one_or_some(item: JSON) -> JSON:
    return {"anyOf": [item, {"type": "array", "minItems": 1, "items": item}]}
