"""Edits of a text: what is asked for changes, and not one byte beside it."""

from __future__ import annotations

import pytest

from builder.start.text_edit import add_entry, put_entry, remove_entry, replace_scalars
from registry import yaml12
from registry.errors import InvalidError

MANIFEST = """\
# what it is for
schema: 1  # first
description: >-
  Two lines,
  folded.
# about the base
base: {variant: old, stage: toned}   # another's

data:
  talk: {path: 'data/tälk.jsonl', format: messages}
  more:
    path: "models/old/more.jsonl" # ours
    format: text
stages:
  final: {kind: cast, from: base, dtype: bfloat16}

release: final
# the end
"""


def test_scalars_are_replaced_in_every_form() -> None:
    edited = replace_scalars(
        MANIFEST,
        {
            ("base", "variant"): "new",
            ("data", "talk", "path"): "data/new talk.jsonl",
            ("data", "more", "path"): "models/new/more.jsonl",
            ("schema",): 2,
        },
        where="x",
    )
    expected = (
        MANIFEST.replace("variant: old", "variant: new")
        .replace("'data/tälk.jsonl'", "data/new talk.jsonl")
        .replace('"models/old/more.jsonl"', "models/new/more.jsonl")
        .replace("schema: 1", "schema: 2")
    )
    assert edited == expected


@pytest.mark.parametrize(
    ("after", "before"),
    [
        (("schema",), "description: >-\n"),
        (("schema", "description", "license"), "# about the base\n"),
        (("base",), "\ndata:\n"),
        (("data",), "stages:\n"),
        ((), "# the end\n"),
    ],
)
def test_an_entry_is_added_where_it_belongs(after: tuple[str, ...], before: str) -> None:
    edited = add_entry(MANIFEST, (), "deprecated", "use other: it is better", after=after, where="x")
    assert edited == MANIFEST.replace(before, f'deprecated: "use other: it is better"\n{before}')


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("recipes: {a: 1, b: 2}\n", "recipes: {a: 1, b: 2, c: 3}\n"),
        ("recipes: {a: 1, b: 2,  }  # x\n", "recipes: {a: 1, b: 2, c: 3,  }  # x\n"),
        ("recipes: {}\n", "recipes: {c: 3}\n"),
        ("recipes:\n    a: 1 # one\n# rest\nx: 1\n", "recipes:\n    a: 1 # one\n    c: 3\n# rest\nx: 1\n"),
        ("recipes:\n  a: 1", "recipes:\n  a: 1\n  c: 3\n"),
        ("{recipes: {a: 1}}", "{recipes: {a: 1, c: 3}}"),
        ("recipes:\n  {a: 1,\n   b: 2}\nx: 1\n", "recipes:\n  {a: 1,\n   b: 2, c: 3}\nx: 1\n"),
    ],
)
def test_an_entry_is_added_to_a_table_in_either_form(text: str, edited: str) -> None:
    assert add_entry(text, ("recipes",), "c", 3, where="x") == edited


def test_an_entry_is_taken_out_with_its_lines() -> None:
    assert remove_entry(MANIFEST, "description", where="x") == MANIFEST.replace(
        "description: >-\n  Two lines,\n  folded.\n", ""
    )
    without = remove_entry(MANIFEST, "data", where="x")
    assert yaml12.load(without, "x").value == {
        key: value for key, value in yaml12.load(MANIFEST, "x").value.items() if key != "data"
    }
    assert "\n\nstages:\n" in without


def test_an_entry_that_is_there_is_written_anew_in_its_place() -> None:
    edited = put_entry(MANIFEST, "description", "Short.", where="x")
    assert edited == MANIFEST.replace(">-\n  Two lines,\n  folded.\n", "Short.\n")
    assert put_entry("schema: 1\n", "x", [1], where="x") == "schema: 1\nx: [1]\n"
    assert put_entry("x: 2\nschema: 1\n", "x", 3, after=("schema",), where="x") == "schema: 1\nx: 3\n"


@pytest.mark.parametrize(
    "text",
    [
        "a: &one {variant: old}\nb: *one\n",  # the other entry would change too
        "a: {variant: &v old}\nb: *v\n",
        "a: {b: {variant: old}}\n",  # no such key
        "- a\n",
    ],
)
def test_what_cannot_be_edited_safely_is_refused(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        replace_scalars(text, {("a", "variant"): "new"}, where="model.yaml")
    assert str(caught.value) == (
        "the file is written in a form that cannot be edited safely\n"
        "  where: model.yaml\n"
        "  mend: make this change by hand, or write the file as a plain table without aliases; nothing was changed"
    )


def test_an_alias_changes_where_all_that_it_stands_for_shall_change() -> None:
    text = "a: &one {variant: old}\nb: *one\n"
    both = {("a", "variant"): "new", ("b", "variant"): "new"}
    assert replace_scalars(text, both, where="x") == "a: &one {variant: new}\nb: *one\n"


def test_windows_line_ends_stay() -> None:
    text = MANIFEST.replace("\n", "\r\n")
    edited = replace_scalars(text, {("base", "variant"): "new"}, where="x")
    assert edited == text.replace("variant: old", "variant: new")
    assert (
        yaml12.load(add_entry(text, (), "deprecated", "x", after=("schema",), where="x"), "x").value["deprecated"]
        == "x"
    )
