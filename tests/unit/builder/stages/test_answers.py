"""Answers with labels as tokens: prompt and answer told apart, ends cut, rows counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from builder.stages.answers import encode_answers, split_pairs
from builder.stages.models import open_tokenizer
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

PAIR = {"prompt": "the colour of the sea ?", "chosen": " blue", "rejected": " one"}


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:  # noqa: ANN401 - transformers has no types
    return open_tokenizer(tiny_llama)


def places(count: int) -> list[str]:
    return [f"rows.jsonl, row {number}" for number in range(1, count + 1)]


def test_a_preference_is_a_good_answer_and_one_that_is_not() -> None:
    rows, where = split_pairs([PAIR], places(1))
    assert rows == [
        {"prompt": PAIR["prompt"], "completion": " blue", "label": True},
        {"prompt": PAIR["prompt"], "completion": " one", "label": False},
    ]
    assert where == ["rows.jsonl, row 1, chosen", "rows.jsonl, row 1, rejected"]


def test_texts_are_taken_as_they_are_with_an_end(tokenizer: Any) -> None:  # noqa: ANN401 - transformers has no types
    rows, where = split_pairs([PAIR], places(1))
    encoded = encode_answers(tokenizer, rows, where, max_length=64, where="rows")
    good, bad = encoded.answers
    assert tokenizer.decode([*good.prompt, *good.completion]) == "the colour of the sea ? blue<|end|>"
    assert tokenizer.decode(bad.completion) == " one<|end|>"
    assert good.prompt == bad.prompt == tuple(tokenizer(PAIR["prompt"])["input_ids"])
    assert (good.label, bad.label, good.rows, bad.rows) == (True, False, (1,), (2,))
    assert encoded.notes() == ("of the rows, 1 are good answers and 1 are not",)


def test_messages_go_through_the_template(tokenizer: Any) -> None:  # noqa: ANN401 - transformers has no types
    row = {
        "prompt": [{"role": "user", "content": "the sea ?"}],
        "completion": [{"role": "assistant", "content": "blue"}],
        "label": True,
    }
    (answer,) = encode_answers(tokenizer, [row], places(1), max_length=64, where="rows").answers
    assert tokenizer.decode(answer.prompt) == "<|user|>the sea ?<|end|><|assistant|>"
    assert tokenizer.decode(answer.completion) == "blue<|end|>"


def test_what_is_too_long_is_cut_or_left_out_and_told(tokenizer: Any) -> None:  # noqa: ANN401 - no types
    short = {"prompt": "one", "completion": " two three four five six seven", "label": True}
    long = {"prompt": "one two three four five six seven eight nine ten", "completion": " one", "label": False}
    size = len(tokenizer("one")["input_ids"])
    limit = size + 3
    encoded = encode_answers(tokenizer, [short, long], places(2), max_length=limit, where="rows")
    assert [answer.tokens(limit) for answer in encoded.answers] == [limit]
    assert encoded.notes("held-out rows") == (
        "of the held-out rows, 1 are good answers and 0 are not",
        "1 held-out rows were longer than max_length and lost their end",
        "1 held-out rows were left out: the prompt alone fills max_length",
    )


def test_nothing_is_left_to_learn_from(tokenizer: Any) -> None:  # noqa: ANN401 - transformers has no types
    rows, where = split_pairs([PAIR], places(1))
    with pytest.raises(InvalidError) as caught:
        encode_answers(tokenizer, rows, where, max_length=2, where="rows")
    assert str(caught.value) == (
        "all 2 prompts fill 2 tokens by themselves, so no answer is left to learn from\n"
        "  where: rows\n"
        "  mend: raise max_length"
    )
