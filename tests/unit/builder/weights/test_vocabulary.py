"""New tokens: the tokenizer's files, the rows that they get, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from builder.weight_stages import VocabularySettings
from builder.weights.draft import Draft
from builder.weights.draws import normal_row
from builder.weights.extended import Extended
from builder.weights.folder import read_model
from builder.weights.rounding import round_once
from builder.weights.stream import Scratch
from builder.weights.vocabulary import extend_vocabulary
from registry.canonical import pretty
from registry.errors import Error
from tests.workshop import HIDDEN, Workshop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LETTERS = {letter: number for number, letter in enumerate("abcdefgh<|>")}
ROWS = 14  # one for each of the eleven letters and the one special token, and two that no token has


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def tokenizer(**settings: object) -> Tokenizer:
    """Letters, each a token, and a special one."""
    made = Tokenizer(models.BPE(vocab={**LETTERS, "ab": 11}, merges=[("a", "b")], **settings))
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken("<e>")])
    return made


def base(shop: Workshop, made: Tokenizer | None = None, *, tied: bool = False, **files: object) -> Path:
    """A model with such a tokenizer; ``files`` are JSON, two underscores for the dot."""
    generator = torch.Generator().manual_seed(5)
    tensors = {EMBEDDING: torch.randn(ROWS, HIDDEN, generator=generator).bfloat16()}
    if not tied:
        tensors[HEAD] = torch.randn(ROWS, HIDDEN, generator=generator).bfloat16()
        tensors["lm_head.bias"] = torch.randn(ROWS, generator=generator)
    folder = shop.model(tensors, vocab_size=ROWS)
    (made or tokenizer()).save(str(folder / "tokenizer.json"))
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(json.dumps(value))
    return folder


def extended(folder: Path, **settings: object) -> Draft:
    draft = Draft.of(read_model(folder), where="demo:base")
    return extend_vocabulary(draft, VocabularySettings(**settings))  # type: ignore[arg-type]


def values(draft: Draft, name: str, block_bytes: int = 1 << 20) -> torch.Tensor:
    content = draft.contents[name]
    data = b"".join(bytes(block) for block in content.blocks(Scratch(block_bytes)))
    dtype = torch.bfloat16 if content.spec.dtype == "BF16" else torch.float32
    return torch.frombuffer(bytearray(data), dtype=dtype).view(content.spec.shape)


def rounded(total: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    out = torch.empty(total.numel(), dtype=dtype)
    round_once(total.reshape(-1).clone(), out, Scratch())
    return out.view(total.shape)


def table(draft: Draft, name: str) -> dict[str, object]:
    value: dict[str, object] = json.loads(draft.files[name])
    return value


def test_new_tokens_have_the_next_ids_plain_ones_first(shop: Workshop) -> None:
    folder = base(shop)
    draft = extended(folder, tokens=("abc", "d e"), special=("<f>",))
    before = json.loads((folder / "tokenizer.json").read_text())
    after = table(draft, "tokenizer.json")
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    assert after == {
        **before,
        "added_tokens": [
            *before["added_tokens"],
            {"id": 13, "content": "abc", "normalized": True, "special": False, **flags},
            {"id": 14, "content": "d e", "normalized": True, "special": False, **flags},
            {"id": 15, "content": "<f>", "normalized": False, "special": True, **flags},
        ],
    }
    assert draft.files["tokenizer.json"] == pretty(after)
    assert draft.files.keys() == {"tokenizer.json"}
    reader = Tokenizer.from_str(draft.files["tokenizer.json"].decode())
    assert reader.encode("aabc<f>b").ids == [0, 13, 15, 1]
    assert reader.decode([13, 15]) == "abc"
    assert draft.config["vocab_size"] == 16
    assert draft.notes == ("vocabulary: new tokens 3; rows 14 before, 16 now, 0 of them unused",)


def test_other_files_follow_where_they_name_the_added_tokens(shop: Workshop) -> None:
    decoder = {"12": {"content": "<e>", "special": True}}
    folder = base(
        shop, tokenizer_config__json={"added_tokens_decoder": decoder, "x": 1}, added_tokens__json={"<e>": 12}
    )
    draft = extended(folder, special=("<f>",))
    entry = {"content": "<f>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    expected = {"added_tokens_decoder": {**decoder, "13": {**entry, "special": True}}, "x": 1}
    assert table(draft, "tokenizer_config.json") == expected
    assert table(draft, "added_tokens.json") == {"<e>": 12, "<f>": 13}


def test_rows_that_no_token_had_are_used_first(shop: Workshop) -> None:
    folder = base(shop)
    draft = extended(folder, tokens=("abc",))
    before, after = read_model(folder).tensors[EMBEDDING].load(), values(draft, EMBEDDING)
    assert draft.config["vocab_size"] == ROWS
    assert torch.equal(after[:13], before[:13])
    pieces = before[[11, 2]].double()  # "ab" and "c"
    assert torch.equal(after[13], rounded((pieces[0] + pieces[1]) / 2, torch.bfloat16))


@pytest.mark.parametrize("name", [EMBEDDING, HEAD, "lm_head.bias"])
def test_a_new_row_is_the_mean_of_its_pieces_in_every_table(shop: Workshop, name: str) -> None:
    folder = base(shop)
    draft = extended(folder, tokens=("abc", "ffe"))
    before, after = read_model(folder).tensors[name].load(), values(draft, name)
    total = before[5].double() + before[5].double() + before[4].double()
    assert torch.equal(after[14], rounded(total / 3, before.dtype))
    assert torch.equal(after[:13], before[:13])
    assert after.shape == (15, *before.shape[1:])


def mean_of(rows: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(HIDDEN, dtype=torch.float64)
    for row in rows.double():
        total += row
    return total / len(rows)


@pytest.mark.parametrize("start", ["mean", "zero", "normal"])
def test_other_starts_and_rows_that_stay_unused(shop: Workshop, start: str) -> None:
    folder = base(shop, tied=True)
    draft = extended(folder, tokens=("abc", "ffe"), start=start, multiple=8, seed=9)
    known = read_model(folder).tensors[EMBEDDING].load()[:13]
    after, mean = values(draft, EMBEDDING), mean_of(known)
    deviation = mean_of((known.double() - mean).square()).sqrt()
    for row in (13, 14):
        expected = {
            "mean": mean,
            "zero": torch.zeros(HIDDEN, dtype=torch.float64),
            "normal": normal_row(9, EMBEDDING, row, HIDDEN) * deviation + mean,
        }[start]
        assert torch.equal(after[row], rounded(expected, torch.bfloat16)), row
    assert torch.equal(after[15], rounded(mean, torch.bfloat16))
    assert draft.notes == ("vocabulary: new tokens 2; rows 14 before, 16 now, 1 of them unused",)


@pytest.mark.parametrize("start", ["pieces", "mean", "normal"])
def test_the_size_of_a_block_changes_nothing(shop: Workshop, start: str) -> None:
    draft = extended(base(shop), tokens=("abc", "ffe"), start=start, multiple=32)
    for name in (EMBEDDING, HEAD, "lm_head.bias"):
        whole = values(draft, name)
        assert all(torch.equal(values(draft, name, size), whole) for size in (1, 48, 100))


def test_the_spread_of_normal_rows_is_that_of_each_column(shop: Workshop) -> None:
    rows = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([3.0, 0.1]) + 7
    stored = read_model(shop.model({EMBEDDING: rows})).tensors[EMBEDDING]
    pieces = dict.fromkeys(range(2000, 4000), (0,))
    content = Extended(stored=stored, rows=4000, known=2000, pieces=pieces, start="normal", seed=0)
    data = bytearray(b"".join(bytes(block) for block in content.blocks(Scratch())))
    new = torch.frombuffer(data, dtype=torch.float32).view(4000, 2)[2000:]
    assert new.mean(0).tolist() == pytest.approx(rows.mean(0).tolist(), rel=0.02)
    assert new.std(0).tolist() == pytest.approx(rows.std(0).tolist(), rel=0.05)


def test_truncation_padding_and_dropout_do_not_reach_the_pieces(shop: Workshop) -> None:
    made = tokenizer(dropout=1.0)
    made.enable_truncation(2)
    made.enable_padding(length=6)
    folder = base(shop, made)
    draft = extended(folder, tokens=("abcab",))
    before = read_model(folder).tensors[EMBEDDING].load().double()
    expected = (before[11] + before[2] + before[11]) / 3
    assert torch.equal(values(draft, EMBEDDING)[13], rounded(expected, torch.bfloat16))
    after = table(draft, "tokenizer.json")
    assert after["truncation"] == json.loads((folder / "tokenizer.json").read_text())["truncation"]


def test_one_new_token_may_begin_with_another_or_hold_an_old_one(shop: Workshop) -> None:
    draft = extended(base(shop), tokens=("abc", "abcd"), special=("ab<e>", "<e>c"))
    reader = Tokenizer.from_str(draft.files["tokenizer.json"].decode())
    assert [reader.encode(text).ids for text in ("abcd", "ab<e>", "<e>c")] == [[14], [15], [16]]


def test_special_text_is_matched_before_it_is_normalised_and_unknown_text_is_no_token(shop: Workshop) -> None:
    draft = extended(base(shop, lowering()), special=("AhB",))
    reader = Tokenizer.from_str(draft.files["tokenizer.json"].decode())
    assert reader.encode("AhBab").ids == [13, 11]
    made = tokenizer(unk_token="|", fuse_unk=True)  # noqa: S106
    draft = extended(base(shop, made), tokens=("xyz",))
    assert table(draft, "tokenizer.json")["added_tokens"][-1]["content"] == "xyz"  # type: ignore[index]


def lowering() -> Tokenizer:
    made = tokenizer()
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("h", "")])
    return made


@pytest.mark.parametrize(
    ("made", "settings", "what", "mend"),
    [
        (
            tokenizer,
            {"tokens": ("abc",), "special": ("abc",)},
            "token 'abc' comes twice",
            "name it once, as plain or as special",
        ),
        (
            tokenizer,
            {"special": ("<e>",)},
            "token '<e>' exists already: it has id 12",
            "leave it out of the new ones",
        ),
        (tokenizer, {"tokens": ("ab",)}, "token 'ab' exists already: it has id 11", "leave it out of the new ones"),
        (tokenizer, {"tokens": ("",)}, "a token is empty", "write its text, or leave it out"),
        (
            lowering,
            {"tokens": ("hh",)},
            "token 'hh' is nothing to the tokenizer: its normaliser removes the text",
            "choose another text",
        ),
        (
            lowering,
            {"tokens": ("AhB",)},
            "token 'AhB' exists already: the tokenizer makes it the one token 11",
            "leave it out of the new ones",
        ),
        (
            tokenizer,
            {"tokens": ("a<e>b",)},
            "token 'a<e>b' would be [0, 12, 1], not the one token 13: the tokenizer changes or splits its text",
            "make it a special token, or choose another text",
        ),
    ],
)
def test_tokens_that_are_none_are_refused(
    shop: Workshop, made: Callable[[], Tokenizer], settings: dict[str, tuple[str, ...]], what: str, mend: str
) -> None:
    folder = base(shop, made())
    with pytest.raises(Error) as caught:
        extended(folder, **settings)
    assert (caught.value.what, caught.value.where, caught.value.mend) == (what, "demo:base", mend)


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(shop: Workshop) -> None:
    made = tokenizer()
    made.add_tokens(["aa", "bb", "cc"])
    with pytest.raises(Error) as caught:
        extended(base(shop, made), tokens=("abc",))
    assert caught.value.what == "the tokenizer has ids up to 15, the embedding has 14 rows"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[", "tokenizer.json cannot be read: Expecting value: line 1 column 2 (char 1)"),
        ("[]", "tokenizer.json cannot be read: it is no table with a list of added_tokens"),
        ('{"model": {"type": "Nothing"}}', "tokenizer.json cannot be read: data did not match any variant"),
    ],
)
def test_a_broken_tokenizer_is_refused(shop: Workshop, text: str, what: str) -> None:
    folder = base(shop)
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(Error) as caught:
        extended(folder, tokens=("abc",))
    assert caught.value.what.startswith(what)  # how it goes on is the libraries' business
    assert caught.value.mend == "fetch the model again, or save its tokenizer again"


def test_a_tokenizer_that_its_library_fails_on_is_refused(shop: Workshop) -> None:
    """A merge of a token shorter than the prefix that it must have: what the library raises is no Exception."""
    folder = base(shop)
    table = json.loads((folder / "tokenizer.json").read_text())
    table["model"]["continuing_subword_prefix"] = "##"
    (folder / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(Error) as caught:
        extended(folder, tokens=("abc",))
    assert caught.value.what.startswith("tokenizer.json cannot be read: ")
    assert caught.value.mend == "fetch the model again, or save its tokenizer again"
