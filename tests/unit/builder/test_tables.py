from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

import pytest

from builder.compound import Either
from builder.shapes import Number, Reading, Text
from builder.tables import Key, Rules, fill, json_schema, read, shape_of
from registry.selector import COMPONENTS, Selector

if TYPE_CHECKING:
    from registry.canonical import JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """A table within a table."""

    RULES: ClassVar[Rules] = Rules(either=(Either(groups=(("epochs",), ("steps",))),))

    epochs: Annotated[float, Key("Passes."), Number(above=0, maximum=10)] = 1.0
    steps: Annotated[int, Key("Steps."), Number(minimum=0)] = 0
    fast: Annotated[bool, Key("Hurry.")] = False


Size: TypeAlias = Annotated[str, Text(pattern="[a-z]+", expected="a size", reserved=("none",), max_length=6)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """All shapes in one table."""

    name: Annotated[Size, Key("Its size.", name="size")]
    count: Annotated[int, Key("How many."), Number(minimum=1, maximum=9)] = 1
    mode: Annotated[Literal["slow", "fast"], Key("How.")] = "slow"
    version: Annotated[Literal[1], Key("Which.")] = 1
    targets: Annotated[Selector | None, Key("Where.")] = None
    inner: Annotated[Inner, Key("More.")] = field(default_factory=Inner)
    maybe: Annotated[Inner | None, Key("Perhaps more.")] = None
    share: Annotated[float, Key("Part."), Number(minimum=0, below=1)] = 0.0


def outer(**given: JSON) -> Outer:
    reading = Reading(file="m.yaml")
    found = read(Outer, {"size": "xl", **given}, reading)
    assert reading.faults == []
    assert found is not None
    return found


def faults(value: JSON) -> list[str]:
    reading = Reading(file="m.yaml")
    read(Outer, value, reading)
    return [f"{one.key}: {one.problem} / {one.mend}" for one in reading.faults]


def fault(**given: JSON) -> str:
    found = faults({"size": "xl", **given})
    assert len(found) == 1
    return found[0]


INNER = "a table with epochs, steps, fast"
EMPTY_SELECTOR = (
    "targets: expected a selector, got an empty list / write a component name, a tensor glob, "
    "a list of them, or a table with components, layers, tensors, exclude"
)
UNKNOWN_COMPONENT = "targets: unknown component 'attentoin' / did you mean attention? components are " + ", ".join(
    COMPONENTS
)


def test_defaults_are_those_of_the_dataclass() -> None:
    assert outer() == Outer(name="xl")


def test_numbers_take_their_declared_type() -> None:
    found = outer(count=2.0, share=0, inner={"epochs": 3})
    assert (found.count, found.share, found.inner.epochs) == (2, 0.0, 3.0)
    assert [type(one) for one in (found.count, found.share, found.inner.epochs)] == [int, float, float]
    assert outer(version=1.0).version == 1
    assert type(outer(version=1.0).version) is int


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"count": True}, "count: expected an integer from 1 to 9, got true / write an integer from 1 to 9"),
        ({"count": "2"}, "count: expected an integer from 1 to 9, got text '2' / take the quotes away"),
        ({"count": 2.5}, "count: expected an integer from 1 to 9, got 2.5 / write an integer from 1 to 9"),
        ({"count": 10}, "count: expected an integer from 1 to 9, got 10 / write an integer from 1 to 9"),
        ({"count": 10**400}, f"count: expected an integer from 1 to 9, got 1{'0' * 59} / write an integer from 1 to 9"),
        ({"count": None}, "count: expected an integer from 1 to 9, got nothing / write a value, or leave the key out"),
        ({"share": math.nan}, "share: expected a number from 0, below 1, got nan / write a number from 0, below 1"),
        ({"share": -math.inf}, "share: expected a number from 0, below 1, got -inf / write a number from 0, below 1"),
        ({"share": 1}, "share: expected a number from 0, below 1, got 1 / write a number from 0, below 1"),
        ({"share": []}, "share: expected a number from 0, below 1, got a list of 0 / write a number from 0, below 1"),
        ({"size": 7}, "size: expected a size, got 7 / put it in quotes"),
        ({"size": False}, "size: expected a size, got false / put it in quotes"),
        ({"size": "XL"}, "size: expected a size, got text 'XL' / write a size"),
        ({"size": "xl\n"}, "size: expected a size, got text 'xl\\n' / write a size"),
        ({"size": "none"}, "size: 'none' is reserved / choose another name"),
        ({"size": "abcdefg"}, "size: expected at most 6 characters, got 7 / shorten it"),
        ({"mode": "fst"}, "mode: expected slow or fast, got text 'fst' / did you mean 'fast'?"),
        ({"mode": ["slow"]}, "mode: expected slow or fast, got a list of 1 / write slow or fast"),
        ({"version": True}, "version: expected 1, got true / write 1"),
        ({"version": 2}, "version: expected 1, got 2 / write 1"),
        ({"inner": {"fast": 1}}, "inner.fast: expected true or false, got 1 / write true or false"),
        ({"inner": {"fast": "yes"}}, "inner.fast: expected true or false, got text 'yes' / write true or false"),
        ({"inner": []}, f"inner: expected {INNER}, got a list of 0 / write {INNER}"),
        ({"inner": {"stps": 1}}, "inner.stps: unknown key 'stps' / did you mean 'steps'?"),
        ({"inner": {"zzz": 1}}, "inner.zzz: unknown key 'zzz' / keys here: epochs, fast, steps"),
        (
            {"name": "x"},
            "name: unknown key 'name' / keys here: count, inner, maybe, mode, share, size, targets, version",
        ),
        ({"inner": {"steps": 1, "epochs": 1}}, "inner.steps: 'steps' together with 'epochs' / keep one of them"),
        ({"targets": "attentoin"}, UNKNOWN_COMPONENT),
        ({"targets": []}, EMPTY_SELECTOR),
    ],
)
def test_a_fault_says_what_was_expected_and_how_to_mend_it(given: dict[str, JSON], expected: str) -> None:
    assert fault(**given) == expected


def test_every_fault_is_found_at_once() -> None:
    assert faults({"cuont": 1, "share": 2, "inner": {"fast": 0, "steps": -1}}) == [
        "cuont: unknown key 'cuont' / did you mean 'count'?",
        ": missing key 'size' / add it: a size",
        "inner.steps: expected an integer from 0, got -1 / write an integer from 0",
        "inner.fast: expected true or false, got 0 / write true or false",
        "share: expected a number from 0, below 1, got 2 / write a number from 0, below 1",
    ]


def test_faults_stand_at_the_line_of_their_key_or_of_what_is_around_it() -> None:
    lines = {(): 1, ("inner",): 4, ("inner", "fast"): 6}
    reading = Reading(file="m.yaml", lines=lines)
    read(Outer, {"inner": {"fast": 0, "steps": "x"}}, reading)
    assert [(one.file, one.line, one.key) for one in reading.faults] == [
        ("m.yaml", 1, ""),
        ("m.yaml", 4, "inner.steps"),
        ("m.yaml", 6, "inner.fast"),
    ]


def test_selectors_are_parsed() -> None:
    assert outer(targets=["mlp", "attention"]).targets == Selector.parse(["attention", "mlp"])


@pytest.mark.parametrize(
    ("upper", "lower", "expected"),
    [
        ({}, {"count": 2}, {"count": 2}),
        ({"count": 3}, {"count": 2}, {"count": 3}),
        ({}, {"inner": {"fast": True}}, {"inner": {"fast": True}}),
        ({"inner": {"steps": 1}}, {"inner": {"fast": True}}, {"inner": {"steps": 1, "fast": True}}),
        ({"inner": {"steps": 1}}, {"inner": {"epochs": 2}}, {"inner": {"steps": 1}}),
        ({"inner": {"epochs": 1}}, {"inner": {"steps": 2}}, {"inner": {"epochs": 1}}),
        ({}, {"maybe": {"fast": True}}, {}),
        ({"maybe": {}}, {"maybe": {"fast": True}}, {"maybe": {"fast": True}}),
        ({"targets": ["mlp"]}, {"targets": {"components": ["head"]}}, {"targets": ["mlp"]}),
    ],
)
def test_defaults_fill_what_was_not_said(
    upper: dict[str, JSON], lower: dict[str, JSON], expected: dict[str, JSON]
) -> None:
    before = repr((upper, lower))
    assert fill(Outer, upper, lower) == expected
    assert repr((upper, lower)) == before


def test_the_schema_says_what_the_reader_checks() -> None:
    schema = json_schema(Outer, title="Outer")
    assert schema["required"] == ["size"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert isinstance(properties, dict)
    assert properties["size"] == {
        "type": "string",
        "maxLength": 6,
        "pattern": "^(?:[a-z]+)$",
        "not": {"enum": ["none"]},
        "description": "Its size.",
    }
    assert properties["count"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
        "description": "How many.",
        "default": 1,
    }
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    assert sorted(definitions) == ["Inner", "Selector"]
    inner = definitions["Inner"]
    assert isinstance(inner, dict)
    assert inner["allOf"] == [{"not": {"required": ["epochs", "steps"]}}]


def test_a_field_without_key_or_shape_is_a_mistake_of_ours() -> None:
    @dataclass(frozen=True)
    class Bare:
        size: int

    with pytest.raises(TypeError, match="field 'size' has no Key"):
        shape_of(Bare)
    with pytest.raises(TypeError, match="no shape for <class 'bytes'>"):
        shape_of(bytes)
