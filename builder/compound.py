"""What a list or a table may be: shapes made of shapes, each with its reader and its JSON Schema."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from builder.shapes import BROKEN, Choice, Text, WeightingForm, nearest, unexpected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from builder.shapes import Reading, Schema, Shape
    from registry.canonical import JSON
    from registry.yaml12 import KeyPath

__all__ = ["Either", "Field", "List", "Named", "OneOf", "TableShape"]


@dataclass(frozen=True, kw_only=True, slots=True)
class List:
    """A list of one shape."""

    item: Shape
    expected: str = "a list"

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """A tuple of the items; broken ones are left out, since their faults are known."""
        if not isinstance(value, list):
            return unexpected(self, value, path, reading)
        items = [self.item.read(one, (*path, index), reading) for index, one in enumerate(value)]
        return tuple(item for item in items if item is not BROKEN)

    def schema(self, definitions: dict[str, JSON]) -> Schema:
        """An array."""
        return {"type": "array", "items": self.item.schema(definitions)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A table whose keys are names of the writer's choice.

    Attributes:
        name: What the keys may be.
        item: What the values may be.
        filled: Whether there must be at least one entry.
        lone: Value of a name that is written alone, in place of a table; ``None`` where that cannot be.
    """

    name: Text | Choice
    item: Shape
    filled: bool = False
    lone: JSON = None

    @property
    def expected(self) -> str:
        """A table; or a name, where one alone will do."""
        return "a table of names" if self.lone is None else f"{self.name.expected}, or a table of them"

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """The entries in the writer's order; broken ones are left out, since their faults are known."""
        if self.lone is not None and isinstance(value, str):
            found = self.name.read(value, path, reading)
            return found if found is BROKEN else {found: self.lone}
        if not isinstance(value, dict):
            return unexpected(self, value, path, reading)
        if self.filled and not value:
            return reading.fault(path, "expected at least one entry, got none", "add one, or leave the table out")
        entries: dict[str, object] = {}
        for key, one in value.items():
            place = (*path, key)
            name = self.name.read(key, place, reading)
            item = self.item.read(self._filled_in(key, one), place, reading)
            if name is not BROKEN and item is not BROKEN:
                entries[key] = item
        return entries

    def _filled_in(self, key: str, value: JSON) -> JSON:
        """The value in its long form: an entry may be one word, and may take a key's value from its own name."""
        if not isinstance(self.item, TableShape) or not self.item.named_by:
            return value
        table = self.item.long(value)
        if isinstance(table, dict) and self.item.named_by not in table:
            return {self.item.named_by: key, **table}
        return table

    def schema(self, definitions: dict[str, JSON]) -> Schema:
        """An object with patterned keys."""
        schema: Schema = {"type": "object", "propertyNames": self.name.schema(definitions)}
        if isinstance(self.item, TableShape) and self.item.named_by:
            schema |= self._named_schema(self.item, definitions)
        else:
            schema["additionalProperties"] = self.item.schema(definitions)
        if self.filled:
            schema["minProperties"] = 1
        return schema if self.lone is None else {"anyOf": [self.name.schema(definitions), schema]}

    @staticmethod
    def _named_schema(item: TableShape, definitions: dict[str, JSON]) -> Schema:
        """Entries whose name says what they are may be short; all others may not."""
        named = cast("Choice", item.field(item.named_by).shape)
        short = replace(item, name=f"{item.name} by name", fields=item.relaxed(item.named_by))
        full = replace(item, shorthand="")
        either = short.schema(definitions)
        return {
            "properties": {str(value): either for value in named.values},
            "additionalProperties": full.schema(definitions),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One key of a table.

    Attributes:
        attribute: Name in the dataclass.
        key: Name in the file.
        shape: What it holds.
        required: Whether it must be written.
        optional: Whether the whole value may be absent, rather than have a default.
        doc: What it means, one line.
        own: Whether it says what one stage is, so that it can have no default elsewhere.
        default: What holds where it is not written.
    """

    attribute: str
    key: str
    shape: Shape
    required: bool
    optional: bool
    doc: str
    own: bool
    default: object


@dataclass(frozen=True, kw_only=True, slots=True)
class Either:
    """Keys that exclude each other.

    Attributes:
        groups: Keys of one group only may be written.
        needed: Whether at least one must be.
        mend: Advice when they come together.
    """

    groups: tuple[tuple[str, ...], ...]
    needed: bool = False
    mend: str = "keep one of them"

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key of every group."""
        return tuple(key for group in self.groups for key in group)

    def clash(self, given: Iterable[str]) -> tuple[str, str] | None:
        """Two keys, of different groups, that are both given."""
        present = set(given)
        found = [next((key for key in group if key in present), "") for group in self.groups]
        pair = [key for key in found if key][:2]
        return (pair[0], pair[1]) if len(pair) > 1 else None

    def rules(self) -> list[JSON]:
        """JSON Schema of it: no two keys of different groups, and at least one where needed."""
        forbidden: list[JSON] = [
            {"not": {"required": [one, other]}}
            for index, group in enumerate(self.groups)
            for later in self.groups[index + 1 :]
            for one in group
            for other in later
        ]
        needed: list[JSON] = [{"anyOf": [{"required": [key]} for key in self.keys]}]
        return forbidden + (needed if self.needed else [])


@dataclass(frozen=True, kw_only=True, slots=True)
class TableShape:
    """A table with known keys.

    Attributes:
        name: Name of the dataclass.
        doc: What the table is, one line.
        fields: Its keys, in the dataclass's order.
        make: Makes the value of the fields that were read; without it, the plain table is given back (a partial one).
        shorthand: Key that a lone value, a string or a weighting, stands for.
        bare: Whether the string is the only form.
        named_by: Key whose value the entry's own name gives where it is left out.
        either: Keys that exclude each other.
    """

    name: str
    doc: str
    fields: tuple[Field, ...]
    make: Callable[..., object] | None
    shorthand: str = ""
    bare: bool = False
    named_by: str = ""
    either: tuple[Either, ...] = ()

    @property
    def expected(self) -> str:
        """A name, or a table with its keys."""
        if self.bare:
            return "a name"
        short = f"a {self.shorthand} or " if isinstance(self._short_shape(), WeightingForm) else ""
        return f"{short}a table with {', '.join(one.key for one in self.fields)}"

    def _short_shape(self) -> Shape | None:
        return self.field(self.shorthand).shape if self.shorthand else None

    def field(self, key: str) -> Field:
        """The field of a key."""
        return next(one for one in self.fields if one.key == key)

    def relaxed(self, key: str) -> tuple[Field, ...]:
        """The fields, with one that need not be written."""
        return tuple(replace(one, required=False) if one.key == key else one for one in self.fields)

    def partial(self) -> TableShape:
        """The same table as a set of defaults: settings only, less those that every stage must write itself."""
        fields = tuple(
            replace(one, shape=_partial(one.shape), required=False)
            for one in self.fields
            if not one.own and (not one.required or isinstance(one.shape, TableShape))
        )
        return replace(self, name=f"{self.name} defaults", fields=fields, make=None, shorthand="")

    def long(self, value: JSON) -> JSON:
        """The table that a lone value of the shorthand's own shape stands for."""
        if not self.shorthand or isinstance(value, dict | bool) or value is None:
            return value
        text = not isinstance(self._short_shape(), WeightingForm)
        return {self.shorthand: value} if text == isinstance(value, str) else value

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """The dataclass, or the plain table where this is a partial one."""
        if self.bare and not isinstance(value, str):
            return unexpected(self, value, path, reading)
        table = self.long(value)
        if not isinstance(table, dict):
            return unexpected(self, value, path, reading)
        before = len(reading.faults)
        self._check_keys(table, path, reading)
        values = {one.attribute: self._read_field(one, table, path, reading) for one in self.fields if one.key in table}
        if self.make is None:
            return table if len(reading.faults) == before else BROKEN
        missing = [one for one in self.fields if one.required and one.attribute not in values]
        stand_ins = {one.attribute: _stand_in(one.shape) for one in missing}
        known = {name: one for name, one in (stand_ins | values).items() if one is not BROKEN}
        if any(one.required and one.attribute not in known for one in self.fields):
            return BROKEN
        return self.make(**known)

    def _read_field(self, one: Field, table: dict[str, JSON], path: KeyPath, reading: Reading) -> object:
        found = one.shape.read(table[one.key], (*path, one.key), reading)
        return _stand_in(one.shape) if found is BROKEN and one.required else found

    def _check_keys(self, table: dict[str, JSON], path: KeyPath, reading: Reading) -> None:
        known = [one.key for one in self.fields]
        for key in table:
            if key not in known:
                reading.fault((*path, key), f"unknown key {key!r}", nearest(key, known, "keys here"))
        for one in self.fields:
            if one.required and one.key not in table:
                reading.fault(path, f"missing key {one.key!r}", f"add it: {one.shape.expected}")
        for rule in self.either:
            if pair := rule.clash(table):
                reading.fault((*path, pair[1]), f"{pair[1]!r} together with {pair[0]!r}", rule.mend)
            elif rule.needed and not set(rule.keys) & set(table):
                reading.fault(path, f"none of {', '.join(rule.keys)}", "add one of them")

    def schema(self, definitions: dict[str, JSON]) -> Schema:
        """A reference to the table's definition, or the string that stands for it."""
        if self.bare:
            return self.field(self.shorthand).shape.schema(definitions) | {"description": self.doc}
        key = self.name.replace(" ", "-")
        if key not in definitions:
            definitions[key] = {}  # takes the place, so that a table within itself would end here
            definitions[key] = self.definition(definitions)
        reference: Schema = {"$ref": f"#/$defs/{key}"}
        if not self.shorthand:
            return reference
        return {"anyOf": [self.field(self.shorthand).shape.schema(definitions), reference]}

    def definition(self, definitions: dict[str, JSON]) -> Schema:
        """The object with its keys."""
        rules = [rule for one in self.either for rule in one.rules()]
        schema: Schema = {
            "type": "object",
            "description": self.doc,
            "properties": {one.key: _field_schema(one, definitions) for one in self.fields},
            "required": [one.key for one in self.fields if one.required],
            "additionalProperties": False,
        }
        return schema | ({"allOf": cast("JSON", rules)} if rules else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class OneOf:
    """One of several tables, told apart by ``kind`` or ``type``, or else by the keys that only one of them has.

    Attributes:
        members: The tables.
        by: Key that names the table; empty where its keys do.
        otherwise: Name of the table that is meant where that key is left out; empty where it must be written.
        refused: Names that exist but cannot be written here, with the way out.
        refusal: Why those cannot.
    """

    members: tuple[TableShape, ...]
    by: str = ""
    otherwise: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    refusal: str = "is not written by hand"

    @property
    def expected(self) -> str:
        """Every form in short."""
        if self.otherwise:
            return f"a table, told apart by `{self.by}`"
        if self.by:
            return f"a table with {self.by}: {' or '.join(self.names)}"
        return " or ".join("a name" if one.bare else _form(one) for one in self.members)

    @property
    def names(self) -> tuple[str, ...]:
        """What ``by`` may be; none where keys tell the tables apart."""
        return tuple(self.name_of(one) for one in self.members) if self.by else ()

    def name_of(self, member: TableShape) -> str:
        """What ``by`` is for a member."""
        return str(cast("Choice", member.field(self.by).shape).values[0])

    def member(self, name: str) -> TableShape:
        """The member that ``by`` names."""
        return self.members[self.names.index(name)]

    def chosen(self, value: JSON) -> TableShape | None:
        """The member that a table which can be read is one of; ``None`` where keys alone tell them apart."""
        name = value.get(self.by, self.otherwise) if self.by and isinstance(value, dict) else ""
        return self.member(name) if isinstance(name, str) and name in self.names else None

    def partial(self) -> OneOf:
        """The same union as a set of defaults, which hold for tables of the same name."""
        return replace(self, members=tuple(one.partial() for one in self.members))

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """What the chosen member reads."""
        member = self._named(value, path, reading) if self.by else self._told_apart(value)
        if member is BROKEN:
            return BROKEN
        if not isinstance(member, TableShape):
            return unexpected(self, value, path, reading)
        return member.read(value, path, reading)

    def _named(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        if not isinstance(value, dict):
            return None
        if self.by not in value:
            if self.otherwise:
                return self.member(self.otherwise)
            return reading.fault(path, f"missing key {self.by!r}", f"add it: {' or '.join(self.names)}")
        name = value[self.by]
        if isinstance(name, str) and name in self.names:
            return self.member(name)
        place = (*path, self.by)
        if isinstance(name, str) and name in self.refused:
            return reading.fault(place, f"{self.by} {name!r} {self.refusal}", self.refused[name])
        return reading.fault(place, f"unknown {self.by} {name!r:.60}", nearest(str(name), self.names, f"{self.by}s"))

    def _told_apart(self, value: JSON) -> TableShape | None:
        if isinstance(value, str):
            return next((one for one in self.members if one.bare), None)
        if not isinstance(value, dict):
            return None
        found = [one for one in self.members if not one.bare and self._own_keys(one) & set(value)]
        return found[0] if len(found) == 1 else None

    def _own_keys(self, member: TableShape) -> set[str]:
        others = {one.key for other in self.members if other is not member and not other.bare for one in other.fields}
        return {one.key for one in member.fields} - others

    def schema(self, definitions: dict[str, JSON]) -> Schema:
        """Any of the members; named ones each under their name, so that an editor speaks of one table only."""
        if not self.by:
            return {"anyOf": [one.schema(definitions) for one in self.members]}
        named: list[JSON] = [
            {"if": self._is(name), "then": self.member(name).schema(definitions)} for name in self.names
        ]
        choice: JSON = {self.by: {"enum": list(self.names)}}
        needed: list[JSON] = [] if self.otherwise else [self.by]
        return {"type": "object", "required": needed, "properties": choice, "allOf": named}

    def _is(self, name: str) -> Schema:
        """JSON Schema of what tells that a table is the one of this name; one without the key is the default's."""
        named: Schema = {"properties": {self.by: {"const": name}}}
        return named if not self.otherwise or name == self.otherwise else named | {"required": [self.by]}


def _stand_in(shape: Shape) -> object:
    """An empty value, so that what can still be read of a broken document is; it is never given out."""
    if isinstance(shape, Text) and shape.make is str:
        return ""
    if isinstance(shape, Named):
        return {}
    return () if isinstance(shape, List) else BROKEN


def _partial(shape: Shape) -> Shape:
    return shape.partial() if isinstance(shape, TableShape) or (isinstance(shape, OneOf) and shape.by) else shape


def _form(table: TableShape) -> str:
    return "{" + ", ".join(one.key for one in table.fields) + "}"


def _field_schema(one: Field, definitions: dict[str, JSON]) -> Schema:
    schema = one.shape.schema(definitions) | {"description": one.doc}
    if isinstance(one.default, bool | int | float | str) and not one.required and one.default != "":
        schema["default"] = one.default
    return schema
