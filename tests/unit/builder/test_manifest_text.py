"""Values written as YAML: short tables in one line, and read back as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.manifest_text import manifest_text
from registry import yaml12

if TYPE_CHECKING:
    from registry.canonical import JSON

TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff\uffff\ufffe"), max_size=12
)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=12
)


def test_short_tables_stand_in_one_line() -> None:
    weights: JSON = [{"value": 0.5}, {"on": {"layers": "0--1", "tensors": ["*self_attn*"]}, "value": [0.0, 1e-05]}] * 2
    text = manifest_text({"schema": 1, "base": "tiny", "stages": {"final": {"kind": "blend", "t": weights}, "x": {}}})
    assert text == (
        "schema: 1\n"
        "base: tiny\n"
        "stages:\n"
        "  final:\n"
        "    kind: blend\n"
        "    t:\n"
        "    - {value: 0.5}\n"
        '    - {on: {layers: 0--1, tensors: ["*self_attn*"]}, value: [0.0, 1e-05]}\n'
        "    - {value: 0.5}\n"
        '    - {on: {layers: 0--1, tensors: ["*self_attn*"]}, value: [0.0, 1e-05]}\n'
        "  x: {}\n"
    )


@pytest.mark.parametrize(
    "text", ["1", "0x1f", "true", "null", "~", "", "a: b", "- a", "#", "2020-01-01", "<<", "a b", "1e5"]
)
def test_text_stays_text(text: str) -> None:
    assert yaml12.load(manifest_text({"key": text}), "x").value == {"key": text}


@given(value=st.dictionaries(TEXTS, VALUES, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, object]) -> None:
    assert yaml12.load(manifest_text(cast("dict[str, JSON]", value)), "x").value == value
