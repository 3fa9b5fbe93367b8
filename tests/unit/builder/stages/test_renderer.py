"""A renderer that lives: what it gives is what a rendering of its own gives, and so are its refusals."""

from __future__ import annotations

import pytest

from builder.stages.renderer import Renderer
from builder.stages.templates import Chat, render
from registry.errors import InvalidError

TEMPLATE = (
    "{% for message in messages %}{% if message['content'] == 'bad' %}{{ raise_exception('no') }}{% endif %}"
    "<{{ message['role'] }}>{% generation %}{{ message['content'] }}{% endgeneration %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{{ bos_token }}"
)
VARIABLES = {"bos_token": "<s>"}


def chat(content: str, *, opened: bool = False) -> Chat:
    return Chat(messages=[{"role": "user", "content": content}], where=f"row {content!r}", opened=opened)


def test_it_renders_as_ever_and_goes_on_after_a_refusal() -> None:
    renderer = Renderer(TEMPLATE, VARIABLES)
    chats = [chat("a"), chat("b", opened=True)]
    wanted = render(TEMPLATE, chats, variables=VARIABLES)
    try:
        assert renderer.render(chats) == wanted
        assert renderer.render(chats) == wanted
        with pytest.raises(InvalidError) as caught:
            renderer.render([chat("a"), chat("bad")])
        assert str(caught.value) == (
            "the chat template refuses the conversation: no\n"
            "  where: row 'bad'\n"
            "  mend: change the row, or use a base whose template takes it"
        )
        assert renderer.render(chats) == wanted
    finally:
        renderer.close()
