"""Documents that crash, hang or fill other readers end in an error, and soon."""

from __future__ import annotations

import contextlib
import time

import pytest

from registry import yaml12
from registry.errors import InvalidError

MIB = 1 << 20


def problem(text: str) -> str:
    start = time.process_time()
    with pytest.raises(InvalidError) as caught:
        yaml12.load(text, "m.yaml")
    assert time.process_time() - start < 5
    return caught.value.faults[0].problem


@pytest.mark.parametrize("unit", ["[", "- ", "{a: ", "&a [", "[\n"])
def test_deep_nesting_stops_early(unit: str) -> None:
    """60,000 open brackets end the C loader with a segmentation fault."""
    assert problem(unit * (MIB // len(unit))) == "nested deeper than 64"


@pytest.mark.parametrize("unit", ["{", "? ", "[? ", "{[", "&a {"])
def test_nested_keys_end_at_the_first(unit: str) -> None:
    assert problem(unit * (MIB // len(unit))) == "a key that is not plain text"


def test_faults_are_counted() -> None:
    with pytest.raises(InvalidError) as caught:
        yaml12.load("?\n" * (MIB // 2), "m.yaml")
    assert len(caught.value.faults) == 101
    assert caught.value.faults[0].problem == "more than 100 faults"


def test_brackets_in_text_are_no_nesting() -> None:
    brackets = "[" * 1000
    assert yaml12.load(f'a: "{brackets}"\nb: x{brackets}\n# {brackets}', "m.yaml").value == {
        "a": brackets,
        "b": f"x{brackets}",
    }


@pytest.mark.parametrize("form", ["[{0}]", "{{k: [{0}]}}"])
def test_an_alias_bomb_is_counted_not_built(form: str) -> None:
    """Ten aliases of ten aliases, nine levels: a billion values."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} " + form.format(", ".join([f"*a{n - 1}"] * 10)) for n in range(1, 10)]
    assert problem("\n".join(levels)) == "aliases stand for more than 10000 values"


def test_a_merge_key_bomb_is_refused_at_the_first_key() -> None:
    """It takes PyYAML and DVC's reader more than 20 seconds, and hundreds of MiB."""
    levels = ["a0: &a0 {k: v}"]
    levels += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10)]
    assert problem("\n".join(levels)) == "a merge key"


@pytest.mark.parametrize("text", ["a: &a [*a]", "&a {b: *a}"])
def test_a_value_within_itself_is_refused(text: str) -> None:
    assert problem(text) == "alias *a of nothing before it"


def test_no_tag_makes_an_object() -> None:
    assert problem("!!python/object/apply:os.system [true]").startswith("tag 'tag:yaml.org,2002:python/")


def test_a_number_of_many_digits_is_refused() -> None:
    assert problem(f"a: {'9' * 100_000}") == f"{'9' * 40} is no number"


def test_a_large_document_is_refused_before_parsing() -> None:
    assert problem("a" * (MIB + 1)) == "document of 1048577 bytes, at most 1048576 are read"


@pytest.mark.parametrize("unit", ["-\n", "?\n", "- a\n", "a\n", "'", "!", "#", "\n", "[],", "k: {}\n"])
def test_long_flat_documents_take_seconds_at_most(unit: str) -> None:
    start = time.process_time()
    with contextlib.suppress(InvalidError):
        yaml12.load(unit * (MIB // len(unit)), "m.yaml")
    assert time.process_time() - start < 20
