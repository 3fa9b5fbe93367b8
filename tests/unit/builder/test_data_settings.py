"""Mixtures and held-out rows in a manifest: what is refused when it is read, and what becomes of it in the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.address import Address, DataFile
from builder.graph import build_graph
from builder.load import load
from builder.pipeline import pipelines
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

    from builder.graph import Node

MANIFEST = """\
base: tiny
data:
  chat: {{path: data/chat.jsonl, format: messages}}
  more: {{path: data/more.parquet, format: sharegpt}}
  held: {{path: data/held, format: openai}}
  likes: {{path: data/likes.jsonl, format: preference}}
  prose: {{path: data/prose.txt, format: text}}
stages:
  x: {stage}
release: x
"""
NOTHING = (
    "there are no rows to measure the loss on / add `eval:` to the stage, a data set or `{share: 0.05}`, or take it out"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(
        f"bases: {{tiny: {{path: given, sha256: '{'0' * 64}'}}}}\nrecipes: {{import: 1, sft: 1, dpo: 1, graft: 1}}\n"
    )
    (tmp_path / "data" / "held").mkdir(parents=True)
    for name in ("chat.jsonl", "more.parquet", "likes.jsonl", "prose.txt", "chat.jinja"):
        (tmp_path / "data" / name).write_text("")
    (tmp_path / "models" / "v").mkdir(parents=True)
    return tmp_path


def written(root: Path, stage: str) -> Path:
    (root / "models" / "v" / "model.yaml").write_text(MANIFEST.format(stage=stage))
    return root


def faults(root: Path, stage: str) -> list[str]:
    with pytest.raises(InvalidError) as caught:
        load(written(root, stage))
    return [f"{one.key}: {one.problem} / {one.mend}" for one in caught.value.faults]


def node(root: Path, stage: str) -> Node:
    return build_graph(load(written(root, stage)))[Address(variant="v", stage="x")]


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (
            "{kind: sft, from: base, data: {chat: 1, prose: 1}}",
            ["stages.x.data.prose: 'prose' holds text, the sets before it messages / mix sets of one format"],
        ),
        (
            "{kind: sft, from: base, data: {chat: 1, likes: 1}}",
            [
                (
                    "stages.x.data.likes: 'likes' holds preference, sft needs messages or completion or text "
                    "/ name a data set of that format"
                )
            ],
        ),
        (
            "{kind: sft, from: base, data: {chat: 1, mor: 1}}",
            ["stages.x.data.mor: unknown data set 'mor' / did you mean 'more'?"],
        ),
        ("{kind: sft, from: base, data: {}}", ["stages.x.data: expected at least one entry, got none / add one, or "]),
        (
            "{kind: sft, from: base, data: {chat: 0}}",
            ["stages.x.data.chat: expected a number above 0, up to 1000000, "],
        ),
        (
            "{kind: sft, from: base, data: chat, eval: chat}",
            [
                (
                    "stages.x.eval: 'chat' is what the stage learns from "
                    "/ name another set, or write `eval: {share: 0.05}` to hold out a part of it"
                )
            ],
        ),
        (
            "{kind: sft, from: base, data: chat, eval: {data: prose}, train: {loss_on: all}}",
            ["stages.x.eval.data: 'prose' holds text, what is learnt holds messages / name a set of the same format"],
        ),
        (
            "{kind: sft, from: base, data: chat, eval: hold}",
            ["stages.x.eval: unknown data set 'hold' / did you mean 'held'"],
        ),
        (
            "{kind: sft, from: base, data: chat, eval: {data: held, share: 0.1}}",
            ["stages.x.eval.share: 'share' together with 'data' / keep one: a data set of its own, or a share"],
        ),
        ("{kind: sft, from: base, data: chat, eval: {}}", ["stages.x.eval: none of data, share / add one of them"]),
        (
            "{kind: sft, from: base, data: chat, eval: {share: 0.9}}",
            ["stages.x.eval.share: expected a number above 0, up to 0.5"],
        ),
        ("{kind: dpo, from: base, data: likes, train: {keep: best}}", [f"stages.x.train.keep: {NOTHING}"]),
        (
            "{kind: sft, from: base, data: chat, train: {early_stopping: 2, eval_steps: 5}}",
            [f"stages.x.train.early_stopping: {NOTHING}", f"stages.x.train.eval_steps: {NOTHING}"],
        ),
        (
            "{kind: graft, from: base, template: data/none.jinja}",
            [
                (
                    "stages.x.template: data/none.jinja does not exist "
                    "/ write the path of a file with a chat template within the repository"
                )
            ],
        ),
    ],
)
def test_what_cannot_be_is_refused_when_the_manifest_is_read(root: Path, stage: str, expected: list[str]) -> None:
    found = faults(root, stage)
    assert len(found) == len(expected)
    assert all(one.startswith(start) for one, start in zip(sorted(found), expected, strict=True)), found


def test_sets_that_become_one_format_are_mixed(root: Path) -> None:
    found = node(root, "{kind: sft, from: base, data: {chat: 3, more: 1}, eval: held}")
    files = [(one.role, one.name, one.source, dict(one.said)) for one in found.edges if one.role != "from"]
    assert files == [
        ("data", "chat", DataFile(path="data/chat.jsonl", format="messages"), {"format": "messages", "weight": 3.0}),
        ("data", "more", DataFile(path="data/more.parquet", format="sharegpt"), {"format": "sharegpt", "weight": 1.0}),
        ("eval", "held", DataFile(path="data/held", format="openai"), {"format": "openai"}),
    ]
    assert {"data", "eval", "evaluation"}.isdisjoint(found.action_settings())
    assert [key for _, key in found.params if key.startswith("data.")] == ["data.chat", "data.held", "data.more"]
    text = pipelines(build_graph(load(root)))["models/v/dvc.yaml"]
    assert all(f"- {path}\n" in text for path in ("data/chat.jsonl", "data/more.parquet", "data/held"))


def test_one_set_says_no_weight_and_a_share_is_said_on_each(root: Path) -> None:
    alone = node(root, "{kind: sft, from: base, data: {chat: 3}}")
    assert alone.edges == node(root, "{kind: sft, from: base, data: chat}").edges
    found = node(root, "{kind: sft, from: base, data: {chat: 1, more: 1}, eval: {share: 0.1}}")
    said = [dict(one.settings) for one in found.edges if one.role == "data"]
    assert said == [{"weight": 1.0, "held_out": 0.1}, {"weight": 1.0, "held_out": 0.1}]
    assert [one for one in found.edges if one.role == "eval"] == []


def test_a_template_is_an_input_of_the_graft(root: Path) -> None:
    found = node(root, "{kind: graft, from: base, template: data/chat.jinja}")
    assert [(one.role, getattr(one.source, "path", "")) for one in found.edges][1:] == [("template", "data/chat.jinja")]
    assert "template" not in found.action_settings()
