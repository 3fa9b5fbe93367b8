"""Rendering and cutting, with a tokenizer that has one token a character, so that every id can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.stages.packing import join_texts, pack
from builder.stages.tokens import (
    IGNORED,
    Encoded,
    Example,
    encode_messages,
    encode_pairs,
    encode_texts,
)
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLAIN = (
    "{% for message in messages %}{{ message.role[0] | upper + message.content }}"
    "{% if message.role == 'assistant' %}.{% endif %}{% endfor %}{% if add_generation_prompt %}A{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ message.role[0] | upper }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}.{% endgeneration %}{% else %}{{ message.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A{% endif %}"
)


class Found(dict[str, Any]):
    """What a tokenizer returns; a token a character, so its place is the character's."""

    def char_to_token(self, row: int, place: int) -> int | None:
        return place if place < len(self["input_ids"][row]) else None


class Letters:
    """As much of a transformers tokenizer as is used: ``U`` opens a user's turn, ``A`` an answer, ``.`` ends it."""

    eos_token = "."  # noqa: S105 - a token of text
    eos_token_id = ord(".")
    special_tokens_map: Mapping[str, str] = {}

    def __init__(self, template: str | None = MARKED) -> None:
        self.chat_template = template

    def get_chat_template(self) -> str | None:
        return self.chat_template

    def __call__(self, text: str | list[str], *, add_special_tokens: bool = True) -> Found:  # noqa: ARG002
        return Found(input_ids=ids(text) if isinstance(text, str) else [ids(one) for one in text])


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def said(user: str, assistant: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def spell(tokens: Sequence[int]) -> str:
    return "".join("_" if token == IGNORED else chr(token) for token in tokens)


def test_the_loss_is_on_what_the_assistant_says() -> None:
    encoded = encode_messages(Letters(), [said("hi", "yo")], assistant_only=True, max_length=20, where="data:x")
    assert [(spell(one.input_ids), spell(one.labels), one.lengths) for one in encoded.examples] == [
        ("UhiAyo.", "____yo.", (7,))
    ]
    assert encoded.notes() == ()


def test_the_loss_is_on_all_where_all_is_asked_for() -> None:
    encoded = encode_messages(Letters(PLAIN), [said("hi", "yo")], assistant_only=False, max_length=20, where="data:x")
    assert spell(encoded.examples[0].labels) == "UhiAyo."


def test_long_rows_are_cut_and_silent_rows_left_out() -> None:
    rows = [said("hi", "a long answer"), said("a long question", "yo"), said("hi", "yo")]
    encoded = encode_messages(Letters(), rows, assistant_only=True, max_length=8, where="data:x")
    assert [spell(one.labels) for one in encoded.examples] == ["____a lo", "____yo."]
    assert encoded.notes() == (
        "2 rows were longer than max_length and lost their end",
        "1 rows were left out: no token to learn from within max_length",
    )


def test_all_rows_silent_is_an_error() -> None:
    with pytest.raises(InvalidError) as caught:
        encode_messages(Letters(), [said("a long question", "yo")], assistant_only=True, max_length=8, where="data:x")
    assert str(caught.value) == (
        "none of the 1 rows has a token to learn from within 8 tokens\n"
        "  where: data:x\n"
        "  mend: raise train.max_length, or look at what the chat template marks as the assistant's"
    )


def test_a_template_without_marks_is_an_error() -> None:
    with pytest.raises(InvalidError) as caught:
        encode_messages(Letters("{{ x }}"), [said("hi", "yo")], assistant_only=True, max_length=8, where="data:x")
    assert str(caught.value) == (
        "the chat template has no {% generation %} marks, so the assistant's tokens cannot be told from the others\n"
        "  where: data:x\n"
        "  mend: write `train: {loss_on: all}`, or put the marks around the assistant's text in the base's template"
    )


def test_no_template_is_an_error() -> None:
    with pytest.raises(InvalidError) as caught:
        encode_messages(Letters(None), [said("hi", "yo")], assistant_only=False, max_length=8, where="data:x")
    assert str(caught.value) == (
        "the tokenizer has no chat template, so conversations cannot be rendered\n"
        "  where: data:x\n"
        "  mend: use a base with a chat template, or data of format text"
    )


def test_a_conversation_that_the_template_refuses() -> None:
    strict = Letters("{% if messages | length < 2 %}{{ raise_exception('an answer is missing') }}{% endif %}")
    rows = [said("hi", "yo"), said("hi", "yo")[:1]]
    with pytest.raises(InvalidError) as caught:
        encode_messages(strict, rows, assistant_only=False, max_length=8, where="data:x")
    assert str(caught.value) == (
        "the chat template refuses the conversation: an answer is missing\n"
        "  where: data:x, row 2\n"
        "  mend: change the row, or use a base whose template takes it"
    )


def test_texts_end_with_the_end_token() -> None:
    encoded = encode_texts(Letters(), ["ab", "cdef"], max_length=4, where="data:x")
    assert [spell(one.labels) for one in encoded.examples] == ["ab.", "cdef"]
    assert encoded.truncated == 1


def test_joined_texts_are_cut_into_one_length() -> None:
    encoded = join_texts(Letters(), ["abcd", "efghi", "j"], max_length=4, where="data:x")
    assert [spell(one.input_ids) for one in encoded.examples] == ["abcd", ".efg", "hi.j"]
    assert all(one.labels == one.input_ids for one in encoded.examples)


def test_too_little_text_is_an_error() -> None:
    with pytest.raises(InvalidError) as caught:
        join_texts(Letters(), ["ab"], max_length=4, where="data:x")
    assert str(caught.value) == (
        "all texts together are 3 tokens, one sequence takes 4\n"
        "  where: data:x\n"
        "  mend: lower train.max_length, or give more text"
    )


def test_pairs_share_their_prompt() -> None:
    row = {"prompt": "2+2=", "chosen": "4", "rejected": "5", "source": "sums"}
    (pair,) = encode_pairs(Letters(), [row], max_length=9, where="data:x").pairs
    assert [spell(part) for part in (pair.prompt, pair.chosen, pair.rejected)] == ["2+2=", "4.", "5."]
    assert pair.text == {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
    assert (pair.longest(99), pair.longest(5), pair.tokens(99), pair.tokens(5)) == (6, 5, 12, 10)


def test_pairs_of_messages_go_through_the_template() -> None:
    row = {"prompt": said("hi", "yo")[:1], "chosen": said("", "yes")[1:], "rejected": said("", "no")[1:]}
    (pair,) = encode_pairs(Letters(), [row], max_length=9, where="data:x").pairs
    assert [spell(part) for part in (pair.prompt, pair.chosen, pair.rejected)] == ["UhiA", "yes.", "no."]
    assert pair.text == {
        "prompt": [{"role": "user", "content": "UhiA"}],
        "chosen": [{"role": "assistant", "content": "UhiAyes."}],
        "rejected": [{"role": "assistant", "content": "UhiAno."}],
    }


def test_pairs_whose_prompt_fills_the_length_are_left_out() -> None:
    rows = [
        {"prompt": "ab", "chosen": "c", "rejected": "d"},
        {"prompt": "ab", "chosen": "cdefgh", "rejected": "d"},
        {"prompt": "abcdef", "chosen": "c", "rejected": "d"},
    ]
    encoded = encode_pairs(Letters(), rows, max_length=5, where="data:x")
    assert len(encoded.pairs) == 2
    assert encoded.notes() == (
        "1 rows were longer than max_length and lost their end",
        "1 rows were left out: the prompt alone fills max_length",
    )
    with pytest.raises(InvalidError) as caught:
        encode_pairs(Letters(), rows[2:], max_length=5, where="data:x")
    assert str(caught.value) == (
        "all 1 prompts fill 5 tokens by themselves, so no answer is left to learn from\n"
        "  where: data:x\n"
        "  mend: raise max_length"
    )


def row_of(length: int) -> Example:
    return Example(input_ids=(1,) * length, labels=(2,) * length, lengths=(length,))


@given(st.lists(st.integers(1, 10), min_size=1, max_size=40))
def test_packing_keeps_every_row_whole(lengths: list[int]) -> None:
    encoded = Encoded(examples=tuple(map(row_of, lengths)), truncated=3, silent=2)
    packed = pack(encoded, max_length=10)
    assert sorted(length for one in packed.examples for length in one.lengths) == sorted(lengths)
    for one in packed.examples:
        assert len(one.input_ids) == len(one.labels) == sum(one.lengths) <= 10
    # Two bins that are both at most half full would have been one.
    assert sum(sum(one.lengths) <= 5 for one in packed.examples) <= 1
    assert (packed.truncated, packed.silent) == (3, 2)


def test_packing_takes_the_best_fit() -> None:
    encoded = Encoded(examples=tuple(map(row_of, [7, 6, 4, 3])), truncated=0, silent=0)
    assert [one.lengths for one in pack(encoded, max_length=10).examples] == [(7, 3), (6, 4)]
