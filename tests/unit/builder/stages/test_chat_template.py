"""Another chat template for a model, by a graft: the weights are linked, the files say the new one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.manifest import GraftStage
from builder.stage import Input
from builder.stages.graft import graft
from registry.artifact import Artifact
from registry.digest import digest_file
from registry.errors import InvalidError
from tests.workshop import Workshop

if TYPE_CHECKING:
    from pathlib import Path

    from builder.stage import Outcome

MARKED = (
    "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
    "{% endgeneration %}{% else %}{{ message.content }}{% endif %}{% endfor %}"
)


def regrafted(folder: Path, text: str | bytes) -> tuple[Path, Path, Outcome]:
    """The model, the folder that the stage made of it, and what it says."""
    shop = Workshop(root=folder)
    base = shop.model()
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ 'old' }}", "eos_token": "."}))
    (base / "chat_template.jinja").write_text("{{ 'old' }}")
    Artifact.from_folder(base, "model").write(base)
    path = folder / "chat.jinja"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    template = Input(
        role="template",
        name="template",
        path=path,
        digest=digest_file(path),
        artifact=None,
        format="",
        settings={},
        source="code:data/chat.jinja",
    )
    context = shop.context(GraftStage(from_="base"), shop.input("from", base, name="base"), template)
    outcome = graft(context)
    return base, context.out, outcome


@pytest.mark.parametrize(("text", "said"), [(MARKED, "marks"), ("{{ messages[0].content }}", "does not mark")])
def test_the_files_say_the_new_template_and_weights_are_linked(tmp_path: Path, text: str, said: str) -> None:
    base, out, outcome = regrafted(tmp_path, text)
    assert (out / "chat_template.jinja").read_text() == text
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"eos_token": "."}
    assert (base / "chat_template.jinja").read_text() == "{{ 'old' }}"
    shards = sorted(path.name for path in base.glob("*.safetensors"))
    assert shards
    assert all((out / name).samefile(base / name) for name in shards)
    assert outcome.notes == (f"the chat template is that of data/chat.jinja; it {said} the assistant's turns",)
    artifact = Artifact.from_folder(out, "model", outcome.written)
    assert artifact.weights_digest == Artifact.from_folder(base, "model").weights_digest


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{% for %}", "the chat template is not valid Jinja: line 1: "),
        ("{{ ''.__class__.__mro__ }}", "the chat template reaches for what its sandbox forbids"),
        ("", "no text in UTF-8 of at most 1 MiB"),
        (b"\xff", "no text in UTF-8 of at most 1 MiB"),
        ("x" * ((1 << 20) + 1), "no text in UTF-8 of at most 1 MiB"),
    ],
)
def test_a_template_that_does_not_do_is_refused(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(InvalidError) as caught:
        regrafted(tmp_path, text)
    assert caught.value.what.startswith(problem)
    assert caught.value.where == "data/chat.jinja"
