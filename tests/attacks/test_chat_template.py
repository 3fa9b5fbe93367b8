"""Chat templates that hang, swallow memory, flood or reach out: each ends in its child, with a message of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from transformers import AutoTokenizer

from builder.stages.templates import Chat, Limits, Rendered, probe, render
from builder.stages.tokens import render_tokens
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

TIGHT = Limits(row_s=0.3, memory_bytes=192 << 20, row_bytes=100_000)
MESSAGES = (
    {"role": "user", "content": "the colour of the sky ?"},
    {"role": "assistant", "content": "blue <|end|> é 😀"},
    {"role": "user", "content": ""},
    {"role": "assistant", "content": ""},
)
TRUST = "use a base whose template can be trusted"
NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(s='x' * 99) %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}"
POWER = "{% set n = 99999999 ** 99999999 %}"  # one step of Python's: no bytecode in which it could be stopped

HOSTILE = {
    "endless loop": (NESTED, "the chat template took more than 0.3 s for a conversation", TRUST),
    "endless step": (POWER, "the chat template took more than 0.3 s for a conversation", TRUST),
    "memory": (DOUBLING, "the chat template took more than 192 MiB of memory", TRUST),
    "flood": (
        "{% for a in range(2000) %}{{ 'x' * 1000 }}{% endfor %}",
        "the chat template made more text than 100000 bytes a conversation",
        TRUST,
    ),
    "attribute": (
        "{{ messages.__class__.__base__.__subclasses__() }}",
        (
            "the chat template reaches for what its sandbox forbids: "
            "access to attribute '__class__' of 'list' object is unsafe."
        ),
        TRUST,
    ),
    "syntax": (
        "\n{% if %}",
        "the chat template is not valid Jinja: line 2: Expected an expression, got 'end of statement block'",
        "correct the template, or use another base",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_when_it_is_probed(name: str) -> None:
    template, what, mend = HOSTILE[name]
    with pytest.raises(InvalidError) as caught:
        probe(template, where="hub:org/x", limits=TIGHT)
    assert str(caught.value) == f"{what}\n  where: hub:org/x\n  mend: {mend}"


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{{ 1 / 0 }}"])
def test_what_a_template_refuses_is_said_in_its_words_but_no_fault_of_a_probe(template: str) -> None:
    probe(template, where="hub:org/x", limits=TIGHT)
    with pytest.raises(InvalidError) as caught:
        render(template, [Chat(messages=MESSAGES, where="data:x, row 7")], variables={}, limits=TIGHT)
    message = "no" if "raise" in template else "ZeroDivisionError: division by zero"
    assert str(caught.value) == (
        f"the chat template refuses the conversation: {message}\n"
        "  where: data:x, row 7\n"
        "  mend: change the row, or use a base whose template takes it"
    )


def test_the_row_that_a_template_hangs_on_is_named() -> None:
    template = f"{{% if messages | length == 3 %}}{NESTED}{{% endif %}}"
    chats = [Chat(messages=MESSAGES[:count], where=f"data:x, row {count}") for count in (1, 2, 3, 4)]
    with pytest.raises(InvalidError) as caught:
        render(template, chats, variables={}, limits=TIGHT)
    assert caught.value.where == "data:x, row 3"


def test_rows_that_each_keep_within_their_time_cannot_pass_that_of_all() -> None:
    slow = "{% for a in range(9999) %}{% for b in range(30) %}{% endfor %}{% endfor %}"
    chats = [Chat(messages=MESSAGES, where="data:x")] * 1000
    with pytest.raises(InvalidError) as caught:
        render(slow, chats, variables={}, limits=Limits(row_s=0.5, mean_s=0.0))
    assert caught.value.what == "the chat template took more than 0.5 s for all 1000 conversations"


def test_long_messages_of_a_template_are_cut() -> None:
    with pytest.raises(InvalidError) as caught:
        render("{{ raise_exception('x' * 9999) }}", [Chat(messages=MESSAGES, where="data:x")], variables={})
    assert caught.value.what == "the chat template refuses the conversation: " + "x" * 500


def test_nothing_to_render_starts_no_child() -> None:
    assert render("{% if %}", [], variables={}) == []


def test_spans_and_variables_come_back() -> None:
    template = "{{ bos_token }}{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}"
    found = render(template, [Chat(messages=MESSAGES[1:3], where="data:x")], variables={"bos_token": "<s>"})
    said = MESSAGES[1]["content"]
    end = 3 + len(said)
    assert found == [Rendered(text=f"<s>{said}||", spans=((3, end), (end + 1, end + 1)))]


@pytest.mark.parametrize("opened", [False, True])
def test_tokens_are_those_of_transformers(tiny_llama: Path, *, opened: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    (ours,) = render_tokens(tokenizer, [Chat(messages=MESSAGES, where="x", opened=opened)], marks=True)
    theirs = tokenizer.apply_chat_template(
        list(MESSAGES), return_assistant_tokens_mask=True, return_dict=True, add_generation_prompt=opened
    )
    assert (ours.ids, ours.mask) == (theirs["input_ids"], theirs["assistant_masks"])
    assert any(ours.mask)
