"""Typed reader: a plain table becomes a frozen dataclass, and every fault in it is found.

The dataclass is the schema. A field's type says what its key may hold; ``Annotated`` adds bounds and the line of
documentation that editors and docs/manifest.md show::

    rank: Annotated[int, Key("Rank of the two factors."), Number(minimum=1)] = 16
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from builder.compound import Either, Field, List, Named, OneOf, TableShape
from builder.shapes import BROKEN, Boolean, Choice, Number, Reading, SelectorForm, Shape, Text, WeightingForm
from builder.weighting import Weighting
from registry.errors import InvalidError
from registry.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from registry.canonical import JSON
    from registry.yaml12 import KeyPath

__all__ = [
    "Defaults",
    "Filled",
    "Key",
    "Lone",
    "Otherwise",
    "Refused",
    "Rules",
    "fill",
    "json_schema",
    "read",
    "restore",
    "shape_of",
]

_Table = TypeVar("_Table")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a dataclass says on its table as a whole, in a class variable ``RULES``.

    Attributes:
        shorthand: Key that a lone value, a string or a weighting, stands for.
        bare: Whether the string is the only form.
        named_by: Key whose value the entry's own name gives where it is left out.
        either: Keys that exclude each other.
    """

    shorthand: str = ""
    bare: bool = False
    named_by: str = ""
    either: tuple[Either, ...] = ()


@dataclass(frozen=True, slots=True)
class Key:
    """What a field says on its key.

    Attributes:
        doc: What the key means, one line.
        name: Name in the file, where the field cannot have it.
        required: Whether it must be written although the dataclass has a default.
        own: Whether it says what one stage is, so that it can have no default elsewhere.
        outside: Whether the value is not in the file but given to :func:`read`.
    """

    doc: str
    name: str = ""
    required: bool = False
    own: bool = False
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Filled:
    """A table of names that needs at least one entry."""


@dataclass(frozen=True, slots=True)
class Lone:
    """A table of names for which a name alone may be written.

    Attributes:
        value: What that name then stands for.
    """

    value: float


@dataclass(frozen=True, slots=True)
class Refused:
    """Kinds of a union that exist but cannot be written by hand.

    Attributes:
        advice: Pairs of a kind and the way out.
        because: Why they cannot, after their name.
    """

    advice: tuple[tuple[str, str], ...]
    because: str = "is not written by hand"


@dataclass(frozen=True, slots=True)
class Otherwise:
    """A union whose tables are told apart by a key that may be left out.

    Attributes:
        name: What that key then is.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """A table of defaults: for each kind, any of the settings of its stage.

    Attributes:
        stages: Union of the stage dataclasses.
    """

    stages: object


def read(
    table: type[_Table],
    value: JSON,
    reading: Reading,
    *,
    path: KeyPath = (),
    outside: Mapping[str, object] | None = None,
) -> _Table | None:
    """Read a plain table into its dataclass.

    Args:
        table: A frozen dataclass.
        value: What the document holds.
        reading: Takes the faults; where it has any afterwards, the result is good for looking for more faults only.
        path: Where in the document ``value`` stands.
        outside: Values of the fields that are not in the file.

    Returns:
        The dataclass, or ``None`` where the faults leave nothing to go on with.
    """
    make = cast("type[Any]", table)
    shape = _table(cast("Hashable", table))
    if outside:
        shape = replace(shape, make=lambda **known: make(**known, **outside))
    found = shape.read(value, path, reading)
    return None if found is BROKEN else cast("_Table", found)


def fill(table: type, upper: Mapping[str, JSON], lower: Mapping[str, JSON]) -> dict[str, JSON]:
    """Add to a plain table what it does not say itself.

    Tables inside it are filled in turn, but for those that may be absent: their absence says something. Of tables that
    a key tells apart, one is filled by defaults of the same name only. A key that ``upper`` excludes is not added.

    Args:
        table: Its dataclass.
        upper: What was said; it wins.
        lower: Defaults.
    """
    return _fill(_table(table), upper, lower)


def restore(table: type[_Table], settings: Mapping[str, JSON], where: str, /, **outside: object) -> _Table:
    """A dataclass of the settings that an action keeps.

    Args:
        table: The dataclass that they were taken from.
        settings: Plain values by the names of its fields, all of them; ``None`` where an optional one is absent.
        where: For errors.
        outside: Values of the fields that an action leaves out, as they are.

    Raises:
        InvalidError: They do not fit the dataclass: an action of another version of this tool.
    """
    shape = _table(cast("Hashable", table))
    reading = Reading(file=where)
    values = {
        one.attribute: one.shape.read(_written(one.shape, settings[one.attribute]), (one.key,), reading)
        for one in shape.fields
        if one.attribute not in outside
        and one.attribute in settings
        and not (one.optional and settings[one.attribute] is None)
    }
    known = {one.attribute for one in shape.fields} - outside.keys()
    for name in sorted(settings.keys() - known):
        reading.fault((name,), f"unknown setting {name!r}", "use the version of this tool that made it")
    for name in sorted(known - settings.keys()):
        reading.fault((name,), f"missing setting {name!r}", "use the version of this tool that made it")
    if reading.faults:
        raise InvalidError.from_faults(reading.faults)
    return cast("Callable[..., _Table]", table)(**values, **outside)


def _written(shape: Shape, value: JSON) -> JSON:
    """Plain values by the names of fields -> as a document has them: by its keys, without what is absent."""
    if isinstance(shape, List) and isinstance(value, list):
        return [_written(shape.item, one) for one in value]
    if isinstance(shape, OneOf) and (member := shape.chosen(value)) is not None:
        return _written(member, value)
    if not isinstance(shape, TableShape) or not isinstance(value, dict):
        return value
    given = {
        one.key: _written(one.shape, value.get(one.attribute))
        for one in shape.fields
        # An action has every field: of two numbers that exclude each other, one as its default, which nobody wrote.
        if one.required or not isinstance(one.default, int | float) or value.get(one.attribute) != one.default
    }
    return {key: one for key, one in given.items() if one is not None}


def json_schema(table: type, *, title: str) -> dict[str, JSON]:
    """The JSON Schema of a document that :func:`read` accepts."""
    definitions: dict[str, JSON] = {}
    root = _table(table).definition(definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **root,
        "$defs": {name: definitions[name] for name in sorted(definitions)},
    }


@cache
def shape_of(hint: object) -> Shape:
    """The shape that a field's type stands for.

    Raises:
        TypeError: The type has no shape: a mistake in the dataclass.
    """
    base, marks = _unwrapped(hint)
    for mark in marks:
        if isinstance(mark, Text | Number | Defaults):
            return _marked(base, mark)
    if base in _PLAIN:
        return _PLAIN[base]
    if isinstance(base, type) and is_dataclass(base):
        return _table(base)
    maker = _BY_ORIGIN.get(get_origin(base))
    if maker is None:
        message = f"no shape for {base!r}"
        raise TypeError(message)
    return maker(get_args(base), marks)


_PLAIN: Mapping[object, Shape] = {
    str: Text(),
    int: Number(integer=True, minimum=-(2**53), maximum=2**53),
    float: Number(),
    bool: Boolean(),
    Selector: SelectorForm(),
    Weighting: WeightingForm(),
}


def _marked(base: object, mark: Text | Number | Defaults) -> Shape:
    if isinstance(mark, Number) and base is Weighting:
        return WeightingForm(number=mark)
    if isinstance(mark, Number):
        return replace(mark, integer=base is int)
    return _defaults(mark) if isinstance(mark, Defaults) else mark


@cache
def _table(table: type) -> TableShape:
    hints = get_type_hints(table, include_extras=True)
    rules: Rules = getattr(table, "RULES", Rules())
    found = [(one, *_unwrapped(hints[one.name])) for one in fields(table)]
    return TableShape(
        name=table.__name__,
        doc=(table.__doc__ or "").partition("\n")[0],
        fields=tuple(_field(one, hints[one.name], _key(marks, one.name)) for one, _, marks in found if _in_file(marks)),
        make=table,
        shorthand=rules.shorthand,
        bare=rules.bare,
        named_by=rules.named_by,
        either=rules.either,
    )


def _field(one: dataclasses.Field[Any], hint: object, key: Key) -> Field:
    default = one.default_factory() if one.default_factory is not MISSING else one.default
    return Field(
        attribute=one.name,
        key=key.name or one.name,
        shape=shape_of(hint),
        required=key.required or default is MISSING,
        optional=default is None,
        doc=key.doc,
        own=key.own,
        default=default,
    )


def _key(marks: tuple[object, ...], name: str) -> Key:
    for mark in marks:
        if isinstance(mark, Key):
            return mark
    message = f"field {name!r} has no Key"
    raise TypeError(message)


def _in_file(marks: tuple[object, ...]) -> bool:
    return not any(isinstance(mark, Key) and mark.outside for mark in marks)


def _unwrapped(hint: object) -> tuple[object, tuple[object, ...]]:
    """The type less ``Annotated`` and ``| None``, and the marks that were on it, the innermost last."""
    marks: tuple[object, ...] = ()
    while True:
        if get_origin(hint) is Annotated:
            marks += get_args(hint)[1:]
            hint = get_args(hint)[0]
            continue
        rest = [one for one in get_args(hint) if one is not types.NoneType]
        if get_origin(hint) not in {Union, types.UnionType} or len(rest) == len(get_args(hint)):
            return hint, marks
        hint = Union[tuple(rest)]  # noqa: UP007 - the members are known at run time only


def _choice(parts: tuple[Any, ...], _marks: tuple[object, ...]) -> Shape:
    return Choice(values=parts)


def _list(parts: tuple[Any, ...], _marks: tuple[object, ...]) -> Shape:
    return List(item=shape_of(parts[0]))


def _named(parts: tuple[Any, ...], marks: tuple[object, ...]) -> Shape:
    name = cast("Text | Choice", shape_of(parts[0]))
    lone = next((mark.value for mark in marks if isinstance(mark, Lone)), None)
    filled = any(isinstance(mark, Filled) for mark in marks)
    return Named(name=name, item=shape_of(parts[1]), filled=filled, lone=lone)


def _union(parts: tuple[Any, ...], marks: tuple[object, ...]) -> Shape:
    members = tuple(_table(member) for member in parts)
    by = next((key for key in ("kind", "type") if all(key in map(_key_of, member.fields) for member in members)), "")
    refused = next((mark for mark in marks if isinstance(mark, Refused)), Refused(advice=()))
    otherwise = next((mark.name for mark in marks if isinstance(mark, Otherwise)), "")
    return OneOf(members=members, by=by, otherwise=otherwise, refused=dict(refused.advice), refusal=refused.because)


def _key_of(one: Field) -> str:
    return one.key


_BY_ORIGIN: Mapping[object, Callable[[tuple[Any, ...], tuple[object, ...]], Shape]] = {
    Literal: _choice,
    Mapping: _named,
    Union: _union,
    tuple: _list,
    types.UnionType: _union,
}


def _defaults(mark: Defaults) -> TableShape:
    union = shape_of(mark.stages)
    kinds = union.members if isinstance(union, OneOf) else ()
    parts = {str(member.field("kind").default): member.partial() for member in kinds}
    return TableShape(
        name="Defaults",
        doc="Settings that stages of a kind have unless they say otherwise.",
        fields=tuple(
            Field(
                attribute=kind,
                key=kind,
                shape=part,
                required=False,
                optional=True,
                doc=f"Defaults of every {kind} stage.",
                own=False,
                default=None,
            )
            for kind, part in parts.items()
        ),
        make=None,
    )


def _fill(shape: TableShape, upper: Mapping[str, JSON], lower: Mapping[str, JSON]) -> dict[str, JSON]:
    filled = dict(upper)
    for key, value in lower.items():
        one = shape.field(key)
        inner = _table_in(one.shape, value)
        if key not in upper:
            if not (inner and one.optional) and not _excluded(shape, key, upper):
                filled[key] = value
        elif inner and inner is _table_in(one.shape, upper[key]):
            filled[key] = _fill(inner, cast("dict[str, JSON]", upper[key]), cast("dict[str, JSON]", value))
    return filled


def _table_in(shape: Shape, value: JSON) -> TableShape | None:
    """The table that a value of a shape is; ``None`` where it is none."""
    return shape.chosen(value) if isinstance(shape, OneOf) else shape if isinstance(shape, TableShape) else None


def _excluded(shape: TableShape, key: str, given: Mapping[str, JSON]) -> bool:
    """Whether a key that was given excludes this one."""
    return any(key in rule.keys and rule.clash([*given, key]) is not None for rule in shape.either)
