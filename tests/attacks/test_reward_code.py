"""Code that a request brings runs only where main approves its bytes; nothing else can be made to run as such."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from registry.digest import digest_bytes
from registry.errors import InvalidError
from tests.forge import MANIFEST, Forge

if TYPE_CHECKING:
    from pathlib import Path

CODE = "def rate(completions, **rest):\n    return [float(len(one)) for one in completions]\n"
PROMPT = '{"prompt": "a"}\n'
REWARD = "{file: rewards/length.py, function: rate}"
DIGEST = digest_bytes(CODE.encode())


def manifest(reward: str = REWARD) -> str:
    """The forge's own, with a stage that a reward rates."""
    head, _, tail = MANIFEST.partition("stages:\n")
    head = head.replace("format: messages}", "format: messages}, asks: {path: data/asks.jsonl, format: prompts}")
    stage = f"  short: {{kind: grpo, from: base, data: asks, adapter: {{rank: 2}}, rewards: {{length: {reward}}}}}\n"
    return f"{head}stages:\n{stage}{tail}"


def wish(**files: str) -> dict[str, str]:
    """What a request brings."""
    return {"models/support/model.yaml": manifest(), "data/asks.jsonl": PROMPT} | {
        f"rewards/{name}.py": text for name, text in files.items()
    }


def project(forge: Forge, *digests: str) -> dict[str, str]:
    """main's params.yaml, with what it approves."""
    text = (forge.runner / "params.yaml").read_text()
    approved = json.dumps({"rewards": [*digests]})
    return {"params.yaml": f"{text}approved: {approved}\n"}


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge.make(tmp_path)


def refusal(forge: Forge) -> str:
    with pytest.raises(InvalidError) as caught:
        forge.assemble()
    return str(caught.value)


def test_code_that_nobody_approved_is_refused(forge: Forge) -> None:
    forge.ask(wish(length=CODE))
    assert (
        f"rewards/length.py: code that the build would run, {DIGEST}, which main does not approve\n"
        "  mend: leave it out; or have a maintainer read it, and write that digest to main's params.yaml, under"
        " `approved: {rewards: [...]}`\n"
    ) in refusal(forge)


def test_a_request_cannot_approve_itself(forge: Forge) -> None:
    forge.ask(wish(length=CODE) | project(forge, str(DIGEST)))
    assert "which main does not approve" in refusal(forge)


def test_approved_code_is_taken_and_one_more_byte_is_not(forge: Forge) -> None:
    forge.main(project(forge, str(DIGEST)))
    forge.ask(wish(length=CODE))
    made = forge.assemble()
    assert "rewards/length.py" in made.taken
    assert (made.root / "rewards/length.py").read_text() == CODE
    pipeline = (made.root / "models/support/dvc.yaml").read_text()
    assert "rewards/length.py" in pipeline
    forge.ask({"rewards/length.py": f"{CODE}#"})
    assert "which main does not approve" in refusal(forge)


def test_code_of_main_may_be_named_and_what_it_does_not_define_may_not(forge: Forge) -> None:
    forge.main({"rewards/length.py": f"from os import system\n{CODE}"})
    forge.ask(wish())
    assert forge.assemble().taken == ("data/asks.jsonl", "models/support/model.yaml")
    forge.ask({"models/support/model.yaml": manifest("{file: rewards/length.py, function: system}")})
    assert "stages.short.rewards.length.function: the file defines no function 'system'" in refusal(forge)


@pytest.mark.parametrize(
    "path", ["data/evil.py", "models/support/evil.py", "../evil.py", "rewards/../data/evil.py", "rewards/.evil.py"]
)
def test_code_lives_in_its_folder_alone(forge: Forge, path: str) -> None:
    forge.ask(
        wish() | {"data/evil.py": CODE, "models/support/model.yaml": manifest(f"{{file: {path}, function: rate}}")}
    )
    assert "stages.short.rewards.length.file: expected a Python file below rewards/" in refusal(forge)


def test_code_is_not_kept_by_dvc(forge: Forge) -> None:
    forge.ask(wish() | {"rewards/length.py.dvc": "outs: [{md5: 0123456789abcdef0123456789abcdef, path: length.py}]\n"})
    assert "stages.short.rewards.length.file: rewards/length.py does not exist" in refusal(forge)


def test_a_link_is_no_code(forge: Forge) -> None:
    (forge.author / "rewards").mkdir()
    (forge.author / "rewards/length.py").symlink_to("../data/talks.jsonl")
    forge.ask(wish())
    assert "rewards/length.py: a symbolic link, which could lead out of the repository" in refusal(forge)
