from __future__ import annotations

import math

import pytest

from registry import yaml12
from registry.errors import InvalidError

MANIFEST = """\
# a comment
base: tiny
stages:
  tone:
    kind: sft

    data: tickets
checks:
  - {stage: score, min: 0.6}
  - stage: score
    max: 1e-4
"""


def faults(text: str | bytes, **limits: int) -> list[str]:
    with pytest.raises(InvalidError) as caught:
        yaml12.load(text, "m.yaml", **limits)
    return [f"{one.line} {one.key}: {one.problem} / {one.mend}" for one in caught.value.faults]


def test_every_key_and_item_has_its_line() -> None:
    document = yaml12.load(MANIFEST, "m.yaml")
    assert document.value == {
        "base": "tiny",
        "stages": {"tone": {"kind": "sft", "data": "tickets"}},
        "checks": [{"stage": "score", "min": 0.6}, {"stage": "score", "max": 0.0001}],
    }
    assert document.lines == {
        (): 2,
        ("base",): 2,
        ("stages",): 3,
        ("stages", "tone"): 4,
        ("stages", "tone", "kind"): 5,
        ("stages", "tone", "data"): 7,
        ("checks",): 8,
        ("checks", 0): 9,
        ("checks", 0, "stage"): 9,
        ("checks", 0, "min"): 9,
        ("checks", 1): 10,
        ("checks", 1, "stage"): 10,
        ("checks", 1, "max"): 11,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("True", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("~", None),
        ("", None),
        ("Null", None),
        ("1:30", "1:30"),
        ("010", 10),
        ("0o17", 15),
        ("-0x1F", -31),
        ("0b11", 3),
        ("1_000", 1000),
        ("+7", 7),
        ("1e-4", 1e-4),
        ("1.", 1.0),
        (".5", 0.5),
        (".5e3", ".5e3"),
        (".5e+3", 500.0),
        ("-.inf", -math.inf),
        ("1e400", math.inf),
        ("v1.2.0", "v1.2.0"),
        ("1.2.0", "1.2.0"),
        ("'1'", "1"),
        ('"\\u2028"', "\u2028"),
        ("0123e", "0123e"),
        ("|\n  a\n  b", "a\nb\n"),
    ],
)
def test_scalars_are_read_as_yaml_1_2(text: str, value: object) -> None:
    found = yaml12.load(f"key: {text}\n", "m.yaml").value
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


def test_not_a_number_is_read() -> None:
    value = yaml12.load("[.nan]", "m.yaml").value
    assert isinstance(value, list)
    assert math.isnan(float(str(value[0])))


def test_an_empty_document_is_an_empty_table() -> None:
    assert yaml12.load("# nothing\n", "m.yaml") == ({}, {})


def test_bytes_and_foreign_newlines_are_read_alike() -> None:
    assert yaml12.load("a: é\r\nb: 2\r".encode(), "m.yaml") == yaml12.load("a: é\nb: 2\n", "m.yaml")


def test_an_alias_repeats_its_value_and_has_one_line() -> None:
    document = yaml12.load("a: &x {b: [1, 2]}\nc: *x\n", "m.yaml")
    assert document.value == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}
    assert document.lines[("c",)] == 2
    assert ("c", "b") not in document.lines
    assert yaml12.line_of(document.lines, ("c", "b", 0)) == 2
    assert yaml12.line_of(document.lines, ("absent",)) == 1
    assert yaml12.line_of({}, ("absent",)) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "3"),
        ("a: {b: 1, b: 2}", "1"),
    ],
)
def test_a_key_twice_is_refused(text: str, expected: str) -> None:
    key = "b.c" if expected == "3" else "a.b"
    line = "4" if expected == "3" else "1"
    assert faults(text) == [f"{line} {key}: key twice in one table, first in line {expected} / keep one of them"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n  <<: {b: 1}", "2 a: a merge key / write the keys out"),
        ("a: <<", "1 a: << has a meaning of its own in YAML / put it in quotes"),
        ("a: =", "1 a: = has a meaning of its own in YAML / put it in quotes"),
        ("a: 2024-01-31", "1 a: 2024-01-31 is a date in YAML / put it in quotes"),
        (
            "a: 2024-01-31 10:00:00",
            "1 a: 2024-01-31 10:00:00 is a date in YAML / put it in quotes",
        ),
        ("a: -_", "1 a: -_ is no number / write a number, or put it in quotes"),
        ("1: a", "1 1: a key that YAML does not read as text / put the key in quotes"),
        ("true: a", "1 true: a key that YAML does not read as text / put the key in quotes"),
        ("? [a]\n: b", "1 : a key that is not plain text / write the key as text"),
        ("a: !!str b", "1 a: tag 'tag:yaml.org,2002:str' / leave the tag out"),
        ("!x a: b", "1 a: tag '!x' / leave the tag out"),
        ("a: !!python/object:os.system {}", "1 a: tag 'tag:yaml.org,2002:python/object:os.system' / leave the tag out"),
        ("%YAML 1.1\n---\na: b", "1 : a % directive / leave it out: the file is read as YAML 1.2"),
        ("a: b\n---\nc: d", "2 : a second document / keep one document in a file; take the `---` out"),
        ("a: b\n...", "2 : a line of three dots / take it out; the document ends with the file"),
        ("|\n abc", "1 : a document that is one block of text / write a table"),
        ("a: *b", "1 a: alias *b of nothing before it / write the value out"),
        ("a: &b [*b]", "1 a[0]: alias *b of nothing before it / write the value out"),
        (
            "a: 1\n\tb: 2",
            "2 : character U+0009 in the text / take it out, or write its escape in double quotes",
        ),
        (
            "a: 1\nb: x\u2028y",
            "2 : character U+2028 in the text / take it out, or write its escape in double quotes",
        ),
        ("a: [1,", "2 : not YAML: did not find expected node content / correct the syntax at this line"),
        (
            "a: b: c",
            "1 : not YAML: mapping values are not allowed in this context / correct the syntax at this line",
        ),
        (
            "a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n",
            "2 : a merge left its conflict markers / take one side of each, then take the markers out",
        ),
    ],
)
def test_what_readers_could_take_differently_is_refused(text: str, expected: str) -> None:
    assert faults(text) == [expected]


def test_all_faults_are_found_at_once() -> None:
    assert faults("a: 2024-01-31\nb: !x 1\na: 2\n7: x\n") == [
        "1 a: 2024-01-31 is a date in YAML / put it in quotes",
        "2 b: tag '!x' / leave the tag out",
        "3 a: key twice in one table, first in line 1 / keep one of them",
        "4 7: a key that YAML does not read as text / put the key in quotes",
    ]


def test_bytes_that_are_not_utf_8_are_refused_with_their_line() -> None:
    assert faults(b"a: b\nc: \xff\n") == ["2 : not UTF-8 / save the file as UTF-8"]


def test_a_long_document_is_not_parsed() -> None:
    assert faults("a: b\n", max_bytes=4) == ["0 : document of 5 bytes, at most 4 are read / split or shorten it"]


@pytest.mark.parametrize(
    ("path", "text"),
    [((), ""), (("stages", "tone"), "stages.tone"), (("checks", 0, "metric"), "checks[0].metric"), ((1,), "[1]")],
)
def test_key_paths_are_written_with_dots(path: yaml12.KeyPath, text: str) -> None:
    assert yaml12.dotted(path) == text
