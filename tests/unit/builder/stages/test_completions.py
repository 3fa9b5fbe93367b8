from __future__ import annotations

import pytest

from builder.stages.completions import encode_completions
from registry.errors import InvalidError
from tests.unit.builder.stages.test_tokens import PLAIN, Letters, spell

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "ho"}


def learnt(
    rows: list[dict[str, object]], *, template: str | None = PLAIN, only: bool = True, length: int = 99
) -> list[str]:
    encoded = encode_completions(
        Letters(template), rows, completion_only=only, max_length=length, where="rows", places=["a, row 9"] * len(rows)
    )
    return [spell(example.labels) for example in encoded.examples]


def test_what_follows_the_prompt_is_learnt_and_its_end() -> None:
    assert learnt([{"prompt": "a b", "completion": " c"}], template=None) == ["___ c."]
    assert learnt([{"prompt": "a b", "completion": " c"}], template=None, only=False) == ["a b c."]


def test_messages_need_a_template_but_no_marks() -> None:
    row = {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]}
    assert learnt([row]) == ["___" + "____" + "___" + "_ho."]
    with pytest.raises(InvalidError, match="the tokenizer has no chat template"):
        learnt([row], template=None)


def test_prompts_that_fill_the_length_leave_nothing() -> None:
    with pytest.raises(InvalidError) as caught:
        learnt([{"prompt": "abc", "completion": "d"}], length=3)
    assert caught.value.what == "none of the 1 rows has a token to learn from within 3 tokens"


def test_a_row_that_the_template_refuses_is_named() -> None:
    template = "{{ raise_exception('no system') if messages[0].role == 'system' }}"
    system = {"role": "system", "content": "be"}
    with pytest.raises(InvalidError) as caught:
        learnt([{"prompt": [system, USER], "completion": [ANSWER]}], template=template)
    assert caught.value.where == "a, row 9"
