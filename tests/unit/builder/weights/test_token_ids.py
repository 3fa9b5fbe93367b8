"""Tokens by their ids, as a tokenizer's file has them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.weights.folder import read_model
from builder.weights.token_ids import TokenIds, other_files, read_token_ids
from registry.digest import digest_bytes
from registry.errors import InvalidError
from tests.workshop import Workshop

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Workshop(root=tmp_path).model()


def tokens(model: Path, text: str | None) -> TokenIds | None:
    if text is not None:
        (model / "tokenizer.json").write_text(text)
    return read_token_ids(read_model(model), "a")


def test_every_type_of_table_is_read(model: Path) -> None:
    bpe = tokens(model, '{"model": {"vocab": {"a": 0, "]]]": 1}}, "added_tokens": [{"id": 3, "content": "<x>"}]}')
    assert bpe is not None
    assert bpe.ids == {"a": 0, "]]]": 1, "<x>": 3}
    unigram = tokens(model, '{"model": {"type": "Unigram", "vocab": [["b", -1.0], ["a", -2.5]]}}')
    assert unigram is not None
    assert unigram.ids == {"b": 0, "a": 1}


def test_tokens_full_of_brackets_are_tokens(model: Path) -> None:
    vocabulary = {"[" * length: length for length in range(200)}
    found = tokens(model, json.dumps({"model": {"vocab": vocabulary}}))
    assert found is not None
    assert found.ids == vocabulary


def test_without_the_file_there_is_nothing(model: Path) -> None:
    assert tokens(model, None) is None
    (model / "vocab.txt").write_text("a")
    assert other_files(read_model(model)) == {"vocab.txt": digest_bytes(b"a")}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "Expecting value: line 1 column 2 (char 1)"),
        ("[]", "it is no table"),
        ("{}", "it has no table `model` or no list `added_tokens`"),
        ('{"model": {}}', "its model has no table of tokens"),
        ('{"model": {"vocab": {"a": "0"}}}', "a token comes twice, or has no id"),
        ('{"model": {"vocab": [["a", 1], ["a", 2]]}}', "a token comes twice, or has no id"),
        ('{"model": {"vocab": {"a": 0, "b": 0}}}', "two tokens have one id"),
        (
            '{"model": {"vocab": {}}, "added_tokens": [{"content": "<x>"}]}',
            "an entry of `added_tokens` has no content or no id, or comes twice",
        ),
    ],
)
def test_a_broken_file_is_refused(model: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidError) as caught:
        tokens(model, text)
    assert str(caught.value) == (
        f"no sound tokenizer: {problem}\n  where: {model}/tokenizer.json\n  mend: save the tokenizer again"
    )
