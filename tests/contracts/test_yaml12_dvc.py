"""What we read is what DVC reads: the same value, or an error on our side."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
from dvc.utils.serialize import ParseError, parse_yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml.composer import ReusedAnchorWarning

from registry import yaml12
from registry.errors import InvalidError

ROOT = Path(__file__).parents[2]
OWN_FILES = sorted(
    [*ROOT.glob("models/*/*.yaml"), *ROOT.glob("models/*/dvc.lock"), *ROOT.glob("*.yaml"), *ROOT.glob("bases/*.yaml")]
)

CORPUS = """
    true True TRUE tRue false yes Yes no NO on On off y n Y N null Null NULL ~ nULL none
    0 1 -1 +1 00 010 08 -010 0o17 0o8 0O17 0x1F 0X1F -0x1f 0b101 0b12 1_000 _1 1_ -_1 +_1 -0 +0 9007199254740993
    1. 1.0 .5 -.5 +.5 5. 1e3 1E3 1e+3 1e-4 1.5e3 .5e3 .5e+3 .5e-3 1e400 -1e400 1_0.5 1._5 1.e3 e3 1e 1e+ 0.1.2 --1 +-1
    .inf -.inf +.inf .Inf .INF .nan .NaN .NAN -.nan inf nan NaN Infinity
    1:30 1:30:59 190:20:30.15 12:30 0:0 2024-01 24-01-01 20240101 v1.2.0 1.2.0 1.2.0-rc.1 0.1.0
    a: a:b a::b :a -a ?a a? a# a#b x,y [] {} "" '' "1" '1' "on" 'null' "\\u2028" "\\x41" "a\\nb" é 日本 = == << <<a
    sha256:00 1e5 12e4567 0123456789012345678901234567890123456789 123e45678901234567890123456789012345678901
"""
SCALARS = CORPUS.split()
FORMS = ("key: {0}\n", "- {0}\n", "[{0}]\n", "{{k: {0} }}\n", "a: [b, {0} , c] # d\n")

FRAGMENTS = [
    *["a", "b", "key", "true", "no", "1", "010", "1e-4", "1.5", "~", "é", "0x1F", "_", "+1", ".5", "-0", "1_000", "<<"],
    *[
        ": ",
        ":",
        "? ",
        "- ",
        "-",
        "\n",
        "\n  ",
        "\n    ",
        "  ",
        " ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        ",",
        "#",
        " #",
        "'",
        '"',
    ],
    *[
        "|\n",
        ">\n",
        "|-\n  t\n",
        ">+\n  t\n\n",
        "&x ",
        "*x",
        "!",
        "!!str ",
        "---\n",
        "...\n",
        "%",
        "@",
        "`",
        "\\",
        "\\n",
    ],
    *["a: b\n", "- a\n", "a: 1\n", "b: [x, y]\n", "  k: v\n", "key: {a: b, c: }\n", '"a":1', "2024-01-01"],
]


def theirs(text: str) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReusedAnchorWarning)
        return parse_yaml(text, "m.yaml")


def same(one: object, other: object) -> bool:
    """Equal in value, type and order; NaN equals itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return one == other


def check(text: str) -> bool:
    """Whether we read a document; if so, it is what DVC reads."""
    try:
        ours = yaml12.load(text, "m.yaml").value or {}  # DVC takes every empty value for an empty table
    except InvalidError:
        return False
    assert same(ours, theirs(text)), f"{text!r}: {ours!r} here, {theirs(text)!r} in DVC"
    return True


@pytest.mark.parametrize("scalar", SCALARS)
def test_scalars_mean_what_they_mean_to_dvc(scalar: str) -> None:
    for form in FORMS:
        check(form.format(scalar))


def test_hardly_any_scalar_is_refused() -> None:
    assert [scalar for scalar in SCALARS if not check(f"key: {scalar}\n")] == ["a:", "=", "<<"]


def test_our_own_files_are_read_alike() -> None:
    refused = [path for path in OWN_FILES if not check(path.read_text(encoding="utf-8"))]
    assert refused == []


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=12).map("".join))
@example("~ ")
@example("a: &x [1]\nb: *x\n")
@example("&x a: b\n&x c: *x\n")
def test_scrambled_documents_are_read_alike_or_refused(text: str) -> None:
    try:
        check(text)
    except ParseError:
        # libyaml takes `|#` for a block of text with a comment; DVC refuses the file, and says so.
        assert "|#" in text or ">#" in text


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc:#-{[ '\"01.e", max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from([True, False, None]))
def test_documents_that_dvc_writes_are_read_alike(value: object, flow: bool | None) -> None:  # noqa: FBT001
    import io  # noqa: PLC0415

    from ruamel.yaml import YAML  # noqa: PLC0415

    writer = YAML(typ="safe")
    writer.default_flow_style = flow
    stream = io.StringIO()
    writer.dump({"root": value}, stream)
    check(stream.getvalue())
