from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from transformers import AutoTokenizer

from builder.stages.sequences import Turns, message_sequences, preference_sequences, text_sequences
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

CHAT = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "the colour of the sky ?"},
    {"role": "assistant", "content": "the sky is blue"},
    {"role": "user", "content": "and the sea ?"},
    {"role": "assistant", "content": "the sea is cold"},
]
# What conftest's template says, without the marks around answers.
UNMARKED = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_llama)


def counted(
    tokenizer: PreTrainedTokenizerBase, turns: Turns, chat: list[dict[str, str]] = CHAT, *, max_length: int = 1000
) -> list[str]:
    """Text of what counts, one piece a stretch."""
    (one,) = message_sequences(tokenizer, [chat], turns=turns, max_length=max_length, where="data:x").all
    pieces: list[list[int]] = []
    for before, place in zip((-1, *one.places), one.places, strict=False):
        if place != before + 1:
            pieces.append([])
        pieces[-1].append(one.ids[place])
    return [tokenizer.decode(piece) for piece in pieces]


@pytest.mark.parametrize("template", [None, UNMARKED])
def test_turns(tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    assert counted(tokenizer, "assistant") == ["the sky is blue<|end|>", "the sea is cold<|end|>"]
    assert counted(tokenizer, "last") == ["the sea is cold<|end|>"]
    assert counted(tokenizer, "last", CHAT[:4]) == ["the sky is blue<|end|>"]
    assert counted(tokenizer, "user") == [
        "<|user|>the colour of the sky ?<|end|>",
        "<|user|>and the sea ?<|end|>",
    ]
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert counted(tokenizer, "all") == [whole.removeprefix("<|system|>")]  # nothing is before the first token


def test_a_first_turn_that_starts_the_conversation(tokenizer: PreTrainedTokenizerBase) -> None:
    assert counted(tokenizer, "user", CHAT[1:3]) == ["the colour of the sky ?<|end|>"]


def test_a_long_conversation_loses_its_end(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = tokenizer.apply_chat_template(CHAT[:3], tokenize=True, return_dict=True)["input_ids"]
    chats = [CHAT[:3], CHAT[1:3], CHAT[1:3]]
    found = message_sequences(tokenizer, chats, turns="assistant", max_length=len(whole) - 1, where="data:x")
    assert (found.rows, found.truncated, found.silent, found.size_bytes) == (3, 1, 0, 0)
    assert found.all[0].ids == tuple(whole[:-1])
    assert found.all[0].places[-1] == len(whole) - 2


def test_a_row_without_a_token_that_counts_is_left_out(tokenizer: PreTrainedTokenizerBase) -> None:
    found = message_sequences(tokenizer, [CHAT[:2], CHAT], turns="assistant", max_length=1000, where="data:x")
    assert (found.rows, found.silent, len(found.all)) == (1, 1, 1)


@pytest.mark.parametrize("turns", ["assistant", "last", "user", "all"])
def test_no_token_at_all_is_an_error(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> None:
    with pytest.raises(InvalidError) as caught:
        message_sequences(tokenizer, [CHAT[:1]] if turns != "all" else [], turns=turns, max_length=99, where="data:x")
    assert caught.value.what == f"none of the {0 if turns == 'all' else 1} rows has a token that counts"
    assert caught.value.mend == "raise max_length, choose other turns, or look at the data"


def test_a_template_that_looks_ahead_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{{ messages | length }}" + UNMARKED
    with pytest.raises(InvalidError) as caught:
        counted(tokenizer, "assistant")
    assert str(caught.value) == (
        "the chat template renders message 3 in a way that changes what is before it\n"
        "  where: data:x, row 1\n"
        "  mend: write `turns: all`, or put {% generation %} marks around the answers in the base's template"
    )
    assert counted(tokenizer, "all")  # needs no turns


def test_a_template_that_refuses_a_row(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + UNMARKED
    )
    with pytest.raises(InvalidError) as caught:
        counted(tokenizer, "all")
    assert str(caught.value) == (
        "the chat template refuses the conversation: no system\n"
        "  where: data:x, row 1\n"
        "  mend: change the row, or use a base whose template takes it"
    )


def test_a_template_cannot_reach_out_of_its_sandbox(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{{ messages.__class__.__base__.__subclasses__() }}"
    with pytest.raises(
        InvalidError, match="the chat template reaches for what its sandbox forbids: access to attribute"
    ):
        counted(tokenizer, "all")


def test_without_a_template(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = None
    with pytest.raises(InvalidError, match="the tokenizer has no chat template"):
        counted(tokenizer, "all")


def test_a_text_counts_whole_and_begins_after_the_start_token(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = ["the sky is blue", "élan"]
    found = text_sequences(tokenizer, texts, max_length=1000, where="data:x")
    assert (found.rows, found.size_bytes, found.truncated, found.silent) == (2, 15 + 5, 0, 0)
    for text, one in zip(texts, found.all, strict=True):
        assert one.ids[0] == tokenizer.eos_token_id  # this tokenizer has no start token
        assert one.places == tuple(range(1, len(one.ids)))
        assert tokenizer.decode(one.ids[1:]) == text
    tokenizer.bos_token = tokenizer.decode([2])
    (begun,) = text_sequences(tokenizer, ["the sky"], max_length=1000, where="data:x").all
    assert begun.ids[0] == tokenizer.bos_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("max_length", [2, 3, 5, 8])
def test_windows_predict_every_token_once_from_the_one_before(
    tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    text = "please tell me the colour of the sky and the name of the town by the sea"
    ids = tokenizer(text)["input_ids"]
    found = text_sequences(tokenizer, [text], max_length=max_length, where="data:x")
    assert all(len(one.ids) <= max_length for one in found.all)
    assert [one.ids[place] for one in found.all for place in one.places] == ids
    befores = [one.ids[place - 1] for one in found.all for place in one.places]
    assert befores == [tokenizer.eos_token_id, *ids[:-1]]
    assert found.tokens == len(ids)


def test_empty_texts_are_left_out(tokenizer: PreTrainedTokenizerBase) -> None:
    found = text_sequences(tokenizer, ["", "a"], max_length=10, where="data:x")
    assert (found.rows, found.silent, found.size_bytes) == (1, 1, 1)
    with pytest.raises(InvalidError, match="none of the 1 rows has a token that counts"):
        text_sequences(tokenizer, [""], max_length=10, where="data:x")


def test_a_tokenizer_with_no_token_to_start_from(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = None
    with pytest.raises(InvalidError) as caught:
        text_sequences(tokenizer, ["a"], max_length=10, where="data:x")
    assert caught.value.what == (
        "the tokenizer has neither a start nor an end token to predict a text's first token from"
    )


def test_of_a_preference_the_answers_count(tokenizer: PreTrainedTokenizerBase) -> None:
    row = {"prompt": [CHAT[1]], "chosen": [CHAT[2]], "rejected": [CHAT[4]]}
    found = preference_sequences(tokenizer, [row], max_length=1000, where="data:x")
    texts = [tokenizer.decode([one.ids[place] for place in one.places]) for one in found.all]
    # Both answers begin with "the s"; what they share is the prompt's, as a training has it.
    assert [text[-13:] for text in texts] == ["y is blue<|end|>"[-13:], "a is cold<|end|>"[-13:]]
    assert found.all[0].ids[: found.all[0].places[0]] == found.all[1].ids[: found.all[1].places[0]]
    assert found.rows == 1


def test_long_answers_lose_their_end_and_long_prompts_their_pair(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [
        {"prompt": "a", "chosen": "b" * 50, "rejected": "c"},
        {"prompt": "d" * 50, "chosen": "e", "rejected": "f"},
    ]
    found = preference_sequences(tokenizer, rows, max_length=20, where="data:x")
    assert (found.rows, found.truncated, found.silent) == (1, 1, 1)
    assert [len(one.ids) for one in found.all] == [20, 3]


def test_an_empty_prompt_leaves_the_first_token_unpredicted(tokenizer: PreTrainedTokenizerBase) -> None:
    (chosen, _) = preference_sequences(
        tokenizer, [{"prompt": "", "chosen": "yes", "rejected": "no"}], max_length=20, where="data:x"
    ).all
    assert chosen.places == tuple(range(1, len(chosen.ids)))
