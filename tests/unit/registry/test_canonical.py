"""Canonical JSON: one form out, strict documents in."""

from __future__ import annotations

import pytest

from registry.canonical import decode, encode, pretty
from registry.errors import InvalidError


def test_the_hashed_form_is_compact_and_sorted() -> None:
    assert encode({"b": [1, 1.0, "ü"], "a": None}) == '{"a":null,"b":[1,1.0,"ü"]}'.encode()


def test_the_readable_form_ends_with_a_newline() -> None:
    assert pretty({"b": 1, "a": [2]}) == b'{\n  "a": [\n    2\n  ],\n  "b": 1\n}\n'


def test_both_forms_read_back() -> None:
    value = {"a": [1, 2.5, True, None, "x"], "b": {"c": []}}
    assert decode(encode(value), where="x") == decode(pretty(value), where="x") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": float("-inf")}])
def test_what_json_cannot_say_is_not_written(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a":1,"a":2}', "not strict JSON: key 'a' twice in one object"),
        (b'{"a":NaN}', "not strict JSON: NaN is not JSON"),
        (b'{"a":1e999}', "not strict JSON: 1e999 is no finite number"),
        (b'{"a":"\\ud800"}', "not strict JSON: a lone surrogate is no text"),
        (b'{"a":', "not strict JSON: Expecting value: line 1 column 6 (char 5)"),
        (b"\xff", "not strict JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[" * 65 + b"]" * 65, "document nested deeper than 64"),
        (b"[" * 100_000, "document nested deeper than 64"),
    ],
)
def test_loose_documents_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidError) as caught:
        decode(data, where="here")
    assert caught.value.what == message


def test_a_large_document_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InvalidError, match="document of 11 bytes, at most 10 are read"):
        decode(b'"123456789"', where="here", max_bytes=10)
