"""Tokenizers put together: ids, files, and what cannot be said exactly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer

from builder.weights.token_ids import TokenIds
from builder.weights.union import unite
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

    from registry.canonical import JSON

LETTERS = ("a", "b", "c", "ab", "abc")
MERGES = (("a", "b"), ("ab", "c"))


def entry(token: str, number: int, **flags: bool) -> dict[str, JSON]:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"id": number, "content": token, **plain, **flags}


def tokens(
    folder: Path,
    name: str,
    *added: dict[str, JSON],
    core: tuple[str, ...] = LETTERS,
    merges: tuple[tuple[str, str], ...] = MERGES,
    type_: str = "BPE",
    **parts: JSON,
) -> TokenIds:
    vocab = {token: number for number, token in enumerate(core)}
    table: dict[str, JSON] = {
        "added_tokens": list(added),
        "normalizer": None,
        "pre_tokenizer": None,
        "decoder": None,
        "model": {"type": type_, "vocab": {**vocab}, "merges": [list(pair) for pair in merges]},
        **parts,
    }
    path = folder / name / "tokenizer.json"
    path.parent.mkdir(exist_ok=True)
    return TokenIds(name=name, path=path, table=table, core=vocab, added={str(one["content"]): one for one in added})


def test_added_tokens_follow_the_base_s_own(tmp_path: Path) -> None:
    base = tokens(tmp_path, "a", entry("<end>", 5))
    others = [
        tokens(tmp_path, "b", entry("<user>", 6), entry("<end>", 5), entry("<tool>", 7, special=False)),
        tokens(tmp_path, "c", entry("<end>", 5), entry("<tool>", 6, special=False), entry("<mask>", 7, lstrip=True)),
    ]
    union = unite(base, others, rows=6)
    assert union.added == 3
    assert {token: union.ids[token] for token in ("<end>", "<user>", "<tool>", "<mask>")} == {
        "<end>": 5,
        "<user>": 6,
        "<tool>": 7,
        "<mask>": 8,
    }
    made = Tokenizer.from_str(union.files["tokenizer.json"].decode())
    assert made.get_vocab(with_added_tokens=True) == union.ids
    assert made.encode("abc<tool>c <mask>").ids == [4, 7, 2, 8]
    assert union.files.keys() == {"tokenizer.json"}
    assert union.left_out == frozenset()


def test_what_others_lack_changes_no_file(tmp_path: Path) -> None:
    base = tokens(tmp_path, "a", entry("<end>", 5))
    union = unite(base, [tokens(tmp_path, "b"), base], rows=6)
    assert (union.ids, union.files, union.added) == (base.ids, {}, 0)


def test_the_other_files_of_the_base_get_the_new_tokens_too(tmp_path: Path) -> None:
    base = tokens(tmp_path, "a", entry("<end>", 5))
    flags = {key: value for key, value in entry("<end>", 5).items() if key != "id"}
    config = {"model_max_length": 8, "added_tokens_decoder": {"5": flags}, "eos_token": "<end>"}
    (tmp_path / "a/tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "a/added_tokens.json").write_text('{"<end>": 5}')
    union = unite(base, [tokens(tmp_path, "b", entry("<user>", 5))], rows=6)
    assert json.loads(union.files["tokenizer_config.json"]) == {
        "model_max_length": 8,
        "added_tokens_decoder": {"5": flags, "6": {**flags, "content": "<user>"}},
        "eos_token": "<end>",
    }
    assert json.loads(union.files["added_tokens.json"]) == {"<end>": 5, "<user>": 6}


def test_merges_that_go_on_from_the_others_make_a_longer_table(tmp_path: Path) -> None:
    base = tokens(tmp_path, "a", entry("<end>", 5))
    longer = tokens(
        tmp_path,
        "b",
        entry("<user>", 6),
        core=("c", "b", "a", "ab", "abc", "abcab"),
        merges=(*MERGES, ("abc", "ab")),
    )
    union = unite(base, [longer], rows=6)
    assert union.ids == {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "<end>": 5, "abcab": 6, "<user>": 7}
    made = Tokenizer.from_str(union.files["tokenizer.json"].decode())
    assert made.encode("abcab<user>").ids == [6, 7]
    assert union.left_out == {"merges.txt", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model"}


def test_a_token_that_only_another_model_looks_for_is_looked_for_in_the_union(tmp_path: Path) -> None:
    base = tokens(tmp_path, "a", core=(*LETTERS, "<user>"))
    union = unite(base, [tokens(tmp_path, "b", entry("<user>", 5))], rows=6)
    assert union.added == 0
    made = Tokenizer.from_str(union.files["tokenizer.json"].decode())
    assert made.encode("abc<user>").ids == [4, 5]


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({"type_": "WordPiece"}, "a has a tokenizer of type BPE, b one of type WordPiece"),
        ({"normalizer": {"type": "NFC"}}, "the tokenizers of a and b differ in their normalizer"),
        ({"merges": (("b", "c"), *MERGES)}, "the merges of a and b part at number 1: a + b, b + c"),
        (
            {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "byte_fallback": True}},
            "the tokenizers of a and b differ in model.byte_fallback",
        ),
    ],
)
def test_tokenizers_that_cut_text_in_different_ways_are_refused(
    tmp_path: Path, other: dict[str, object], problem: str
) -> None:
    base = tokens(tmp_path, "a")
    with pytest.raises(InvalidError) as caught:
        unite(base, [tokens(tmp_path, "b", **other)], rows=6)  # type: ignore[arg-type]
    assert caught.value.what == f"no union of tokens: {problem}"
    assert caught.value.where == f"{tmp_path}/b/tokenizer.json with {tmp_path}/a/tokenizer.json"
    assert caught.value.mend == "write `tokenizer: base`, or blend models whose tokenizers were made from one another"


def test_tables_of_other_types_must_be_equal(tmp_path: Path) -> None:
    word = {"type_": "WordPiece", "merges": ()}
    base = tokens(tmp_path, "a", **word)  # type: ignore[arg-type]
    with pytest.raises(InvalidError) as caught:
        unite(base, [tokens(tmp_path, "b", core=("a", "z"), **word)], rows=6)  # type: ignore[arg-type]
    assert caught.value.what == (
        "no union of tokens: the WordPiece tables of a and b differ; one of both would cut text as neither does"
    )


def test_one_added_token_with_two_meanings_is_refused_unless_the_base_says_which(tmp_path: Path) -> None:
    plain, strip = entry("<user>", 5), entry("<user>", 5, lstrip=True)
    base = tokens(tmp_path, "a")
    with pytest.raises(InvalidError) as caught:
        unite(base, [tokens(tmp_path, "b", plain), tokens(tmp_path, "c", strip)], rows=5)
    assert caught.value.what == ("no union of tokens: the added token '<user>' differs among the models in lstrip")
    union = unite(tokens(tmp_path, "a", plain), [tokens(tmp_path, "c", strip)], rows=6)
    assert union.files == {}


def test_tokens_of_the_base_without_a_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        unite(tokens(tmp_path, "a", entry("<end>", 5)), [], rows=5)
    assert caught.value.what == "a has 1 tokens without a row in its embedding, such as '<end>'"


def test_a_tokenizer_that_the_library_cannot_read_is_refused_with_its_file(tmp_path: Path) -> None:
    broken: JSON = {"type": "Unheard"}
    base = tokens(tmp_path, "a", entry("<end>", 5), normalizer=broken)
    with pytest.raises(InvalidError) as caught:
        unite(base, [tokens(tmp_path, "b", entry("<end>", 5), entry("<new>", 6), normalizer=broken)], rows=6)
    assert caught.value.what.startswith("tokenizer.json cannot be read: ")
    assert "Normalizer" in caught.value.what
    assert caught.value.where == str(tmp_path / "a/tokenizer.json")


def test_a_file_beside_the_tokenizer_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    base = tokens(tmp_path, "a", entry("<end>", 5))
    (tmp_path / "elsewhere.json").write_text("{}")
    (tmp_path / "a/tokenizer_config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InvalidError) as caught:
        unite(base, [tokens(tmp_path, "b", entry("<end>", 5), entry("<new>", 6))], rows=6)
    assert caught.value.what == "tokenizer_config.json is a symlink, a folder or a special file"
    assert caught.value.where == str(tmp_path / "a")


@pytest.mark.parametrize("pair", [True, [1, "b"], None])
def test_a_merge_that_is_no_pair_of_tokens_is_refused(tmp_path: Path, pair: JSON) -> None:
    model: JSON = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [pair]}
    one = tokens(tmp_path, "a", model=model)
    with pytest.raises(InvalidError) as caught:
        unite(one, [tokens(tmp_path, "b", model=model)], rows=8)
    assert str(caught.value).startswith(
        f"the tokenizer of a has {pair!r} among its merges, which is no pair of tokens\n  where: a: tokenizer.json"
    )
