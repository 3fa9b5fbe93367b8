"""Main's params.yaml with what a request may say in it."""

from __future__ import annotations

import pytest

from builder.request.project import merge_project
from registry import yaml12
from registry.errors import ConflictError, InvalidError

MAIN = b"# words\nbases: {a: {path: x}}\nrecipes: {sft: 1}\ndefaults: {}\n"


def merge(base: bytes, main: bytes, request: bytes) -> tuple[object, tuple[str, ...]]:
    text, left = merge_project(base, main, request, where="params.yaml")
    return yaml12.load(text, "params.yaml").value, left


def test_the_text_of_the_request_stays_where_it_says_the_same() -> None:
    request = MAIN.replace(b"defaults: {}", b"defaults: {sft: {train: {steps: 3}}} # why")
    assert merge_project(MAIN, MAIN, request, where="params.yaml") == (request, ())


def test_the_text_of_main_stays_where_nothing_is_taken() -> None:
    request = MAIN.replace(b"sft: 1", b"sft: 2") + b"owners: [me]\n"
    assert merge_project(MAIN, MAIN, request, where="params.yaml") == (MAIN, ("owners", "recipes"))


def test_entries_of_both_sides_come_together() -> None:
    main = MAIN.replace(b"{a: {path: x}}", b"{a: {path: x}, m: {path: y}}").replace(b"sft: 1", b"sft: 2")
    request = MAIN.replace(b"{a: {path: x}}", b"{r: {path: z}}").replace(
        b"defaults: {}", b"defaults: {dpo: {batch: 1}}"
    )
    assert merge(MAIN, main, request) == (
        {"bases": {"m": {"path": "y"}, "r": {"path": "z"}}, "recipes": {"sft": 2}, "defaults": {"dpo": {"batch": 1}}},
        (),
    )


def test_the_same_on_both_sides_is_no_conflict() -> None:
    both = MAIN.replace(b"path: x", b"path: y")
    assert merge(MAIN, both, both) == (yaml12.load(both, "").value, ())


def test_another_type_is_another_value() -> None:
    base = MAIN.replace(b"defaults: {}", b"defaults: {sft: {batch: 1}}")
    request = base.replace(b"batch: 1", b"batch: true")
    text, _ = merge_project(base, base, request, where="params.yaml")
    assert text == request


def test_a_conflict_names_the_entry() -> None:
    with pytest.raises(ConflictError) as caught:
        merge(MAIN, MAIN.replace(b"path: x", b"path: y"), MAIN.replace(b"path: x", b"path: z"))
    assert caught.value.what == "main has changed bases.a since, and to another value"


@pytest.mark.parametrize("text", [b"- 1\n", b"bases: [a]\n", b"a: &a [*a]\n"])
def test_what_is_no_table(text: bytes) -> None:
    with pytest.raises(InvalidError):
        merge(MAIN, MAIN, text)


def test_a_number_that_is_none() -> None:
    main = MAIN.replace(b"sft: 1", b"sft: 2")
    with pytest.raises(InvalidError, match="a number that is none"):
        merge(MAIN, main, MAIN.replace(b"defaults: {}", b"defaults: {sft: {x: .nan}}"))
