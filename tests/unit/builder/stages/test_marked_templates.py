"""Templates of known models without marks: the assistant's turns are told by a marked copy, if it says the same."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from builder.stages import marked_templates, tokens
from builder.stages.marked_templates import marked_copy
from builder.stages.templates import Chat, is_marked, render
from builder.stages.tokens import encode_messages
from registry.errors import InvalidError
from tests.unit.builder.stages.test_tokens import PLAIN, Letters, said, spell


def known(name: str) -> str:
    """The text of a template as a known model has it."""
    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "qwen3", "phi3", "gemma"])
def test_a_known_template_has_a_marked_copy(name: str) -> None:
    template = known(name)
    assert not is_marked(template)
    assert is_marked(marked_copy(template))
    assert marked_copy(template + " ") == ""  # to the letter, or not at all
    assert marked_copy(PLAIN) == ""


def test_the_answers_of_a_known_model_are_learnt() -> None:
    tokenizer = Letters(known("qwen2_5"))
    encoded = encode_messages(tokenizer, [said("Hi", "Hello")], assistant_only=True, max_length=400, where="rows")
    learnt = spell(encoded.examples[0].labels).strip("_")
    assert learnt == "\nHello<|im_end|>\n"  # as TRL marks it, with the end of the line before
    whole = spell(encoded.examples[0].input_ids)
    [own] = render(tokenizer.chat_template or "", [Chat(messages=said("Hi", "Hello"), where="")], variables={})
    assert whole == own.text
    assert encoded.notes()[0].startswith("the assistant's turns were told by the marked copy that TRL has")
    all_of_it = encode_messages(tokenizer, [said("Hi", "Hello")], assistant_only=False, max_length=400, where="rows")
    assert all_of_it.notes() == ()


def test_a_copy_that_says_another_thing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = known("qwen2_5").replace("<|im_start|>", "<|im_begin|>")
    monkeypatch.setattr(tokens, "marked_copy", lambda _: marked_templates.marked_copy(known("qwen2_5")))
    with pytest.raises(InvalidError) as caught:
        encode_messages(
            Letters(other),
            [said("Hi", "Hello")],
            assistant_only=True,
            max_length=400,
            where="rows",
            places=["data/chat.jsonl, row 7"],
        )
    assert caught.value.where == "data/chat.jsonl, row 7"
    assert caught.value.what.endswith("the marked copy that TRL has of it says another thing than the template itself")
