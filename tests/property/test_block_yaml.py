"""The quick reader of locks reads what it reads as the YAML reader does, and leaves the rest to that one."""

from __future__ import annotations

import random
from io import StringIO
from typing import Any

import pytest
from ruamel.yaml import YAML

from registry import yaml12
from registry.block_yaml import read_block
from registry.errors import InvalidError

_WORDS = [
    "a",
    "tone",
    "models/a/artifacts/x",
    "varietal run a tone",
    "0.1",
    "1e-05",
    "true",
    "no",
    "on",
    "null",
    "Null",
]
_WORDS += [
    "~",
    "-",
    "- a",
    "a: b",
    "a:",
    "#",
    "a #b",
    "'",
    "''",
    '"',
    "|",
    ">",
    "[a",
    "{a",
    "&a",
    "*a",
    "!a",
    "%a",
    "@",
]
_WORDS += ["0", "00", "0x1f", "0o7", "0b1", "1_0", "12:30", "2020-01-02", ".inf", ".5", "1.", "+1", "-1", "-", "", " a"]
_WORDS += [
    "d41d8cd98f00b204e9800998ecf8427e",
    "d41d8cd98f00b204e9800998ecf8427e.dir",
    "é",
    "\t",
    "a\nb",
    "a ",
    "=",
    "<<",
]
_WORDS += [
    "0b101010101010101010101010101010",
    "12345678901234567890123456789e12",
    "1" * 32,
    "1" * 25,
    "1e999",
    "a" * 200,
]


def _value(chance: random.Random, depth: int) -> Any:  # noqa: ANN401 - any document
    kind = chance.random()
    if depth and kind < 0.3:
        return {_key(chance): _value(chance, depth - 1) for _ in range(chance.randrange(4))}
    if depth and kind < 0.5:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind < 0.55:
        return chance.choice([True, None, 0, -7, 10**20, 3.5e20, chance.choice(_WORDS), chance.choice(_WORDS)])
    return chance.choice([False, 7, 0.1, 1e-05, *_WORDS[:4]])


def _key(chance: random.Random) -> str:
    usual = ["params.yaml", "stages.tone", "base@tiny", "a", "models/a/artifacts/x"]
    return chance.choice(_WORDS) if chance.random() < 0.02 else chance.choice(usual)


def _dumped(value: object) -> str:
    stream, writer = StringIO(), YAML()
    writer.default_flow_style = False
    writer.dump(value, stream)
    return stream.getvalue()


def _check(text: str) -> bool:
    """Whether the quick reader answered; what it said is then what the other one says."""
    quick = read_block(text)
    if quick is None:
        return False
    value = yaml12.load(text, "a.lock").value
    assert repr(quick) == repr(value), text  # 1, 1.0 and true are equal, and are not the same
    return True


@pytest.mark.parametrize("seed", range(4))
def test_what_dvc_writes_is_read_alike(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - documents, nothing secret
    answered = [_check(_dumped({_key(chance): _value(chance, 4) for _ in range(3)})) for _ in range(150)]
    assert 20 < sum(answered) < 150  # both readers had their turns


@pytest.mark.parametrize("seed", range(4))
def test_what_nobody_writes_is_read_alike_or_not_at_all(seed: int) -> None:
    """Lines of good documents, cut, moved and changed."""
    chance = random.Random(100 + seed)  # noqa: S311 - as above
    answered = 0
    for _ in range(400):
        lines = _dumped({_key(chance): _value(chance, 3) for _ in range(3)}).split("\n")
        index = chance.randrange(len(lines))
        lines[index] = chance.choice(
            ["", f" {lines[index]}", lines[index][1:], f"- {lines[index]}", f"{lines[index]} a", chance.choice(_WORDS)]
        )
        text = "\n".join(lines)
        try:
            yaml12.load(text, "a.lock")
        except InvalidError:
            assert read_block(text) is None, text
        else:
            answered += _check(text)
    assert answered > 20


def test_a_lock_as_dvc_writes_it_is_read_quickly() -> None:
    text = """\
schema: '2.0'
stages:
  base@tiny:
    cmd: varietal run bases tiny
    deps:
    - path: data/a.jsonl
      hash: md5
      md5: d41d8cd98f00b204e9800998ecf8427e
      size: 0
    params:
      params.yaml:
        bases.tiny:
          train:
            learning_rate: 1e-05
            targets:
            - attention
            limit: 0
          adapter:
    outs: []
"""
    assert (
        read_block(text.replace("          adapter:\n", ""))
        == yaml12.load(text.replace("          adapter:\n", ""), "a.lock").value
    )
    assert read_block(text) is None  # nothing after a key is null; so seldom that it is left to the other reader
