"""Stages that sample answers: what their tables may say, which inputs they have, what their actions keep."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.address import CodeFile
from builder.graph import Address, build_graph
from builder.kinds import KINDS
from builder.load import load
from builder.pipeline import compile_variant
from registry.digest import digest_bytes
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

    from builder.graph import Node

CODE = "import math\n\n\ndef rate(completions, **rest):\n    return [0.0 for _ in completions]\n"
RATED = "rewards: {short: {file: rewards/rate.py, function: rate}}"
GRPO = f"kind: grpo, from: base, data: asks, {RATED}"
RLOO = f"kind: rloo, from: base, data: asks, {RATED}"
DISTILL = "kind: distill, from: base, teacher: big"


def write(root: Path, stage: str, *, more: str = "") -> None:
    """A repository whose variant ``v`` has a stage ``x``."""
    recipes = json.dumps({name: kind.recipe for name, kind in KINDS.items()})
    pin = f'{{path: models/v, sha256: "{"0" * 64}"}}'
    (root / "params.yaml").write_text(f"bases: {{tiny: {pin}, large: {pin}}}\nrecipes: {recipes}\n")
    (root / "rows.jsonl").write_text("")
    (root / "models/v").mkdir(parents=True, exist_ok=True)
    (root / "rewards").mkdir(exist_ok=True)
    (root / "rewards/rate.py").write_text(CODE)
    (root / "models/v/model.yaml").write_text(
        "base: tiny\nmodels: {big: large}\n"
        "data: {asks: {path: rows.jsonl, format: prompts}, talks: {path: rows.jsonl, format: messages},"
        " texts: {path: rows.jsonl, format: text}, likes: {path: rows.jsonl, format: preference}}\n"
        f"stages: {{x: {{{stage}}}{more}}}\nrelease: x\n"
    )


def node(root: Path, stage: str, *, more: str = "") -> Node:
    write(root, stage, more=more)
    return build_graph(load(root))[Address(variant="v", stage="x")]


def faults(root: Path, stage: str, *, more: str = "") -> list[str]:
    write(root, stage, more=more)
    with pytest.raises(InvalidError) as caught:
        load(root)
    return [str(fault).partition(" ")[2].replace("\n  mend: ", " / ") for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (
            f"{GRPO}, train: {{batch: 12}}",
            "train.batch: 12 answers are no whole groups of 8 / write a multiple of `num_generations`, such as 16",
        ),
        (
            f"{GRPO}, train: {{max_length: 100, max_completion_length: 100}}",
            (
                "train.max_completion_length: answers of 100 tokens leave no room for a prompt in 100 / "
                "lower it, or raise `max_length`, which holds prompt and answer"
            ),
        ),
        (
            f"{GRPO}, adapter: {{rank: 4, dropout: 0.1}}",
            "adapter.dropout: answers that are learnt from are not sampled through a dropout / write 0",
        ),
        (
            f"{RLOO}, adapter: {{type: loha, rank: 4, module_dropout: 0.1}}",
            "adapter.module_dropout: answers that are learnt from are not sampled through a dropout / write 0",
        ),
        (
            f"{GRPO}, train: {{beta: 0.1}}, adapter: {{rank: 4, bias: adapted}}",
            (
                "adapter.bias: biases are the model's own, so the reference that `beta` holds answers to would move "
                "with them / write `bias: none`, or `train: {beta: 0}`"
            ),
        ),
        (
            f"{RLOO}, adapter: {{rank: 4, bias: all}}",
            (
                "adapter.bias: biases are the model's own, so the reference that `beta` holds answers to would move "
                "with them / write `bias: none`, or `train: {beta: 0}`"
            ),
        ),
        (
            f"{GRPO}, train: {{loss_type: cispo}}",
            "train.epsilon_high: cispo bounds weights by it, and it is not set / write it; its paper has 5.0",
        ),
        (
            f"{GRPO}, train: {{loss_type: luspo}}",
            "train.importance_sampling_level: luspo weighs sequences / write `sequence`",
        ),
        (
            f"{GRPO}, train: {{multi_objective_aggregation: normalize_then_sum}}",
            "train.multi_objective_aggregation: there is one reward, and nothing to sum / take it out",
        ),
        (
            f"{RLOO}, train: {{reward_clip_range: [1.0, -1.0]}}",
            "train.reward_clip_range: no lowest and highest reward / write two numbers, the lower first",
        ),
        (
            "kind: rloo, from: base, data: asks, rewards: {short: {file: rewards/rate.py, function: rate, weight: 0}}",
            "rewards: every weight is 0, so all answers are alike / weigh one of them",
        ),
        (
            f"kind: grpo, from: base, data: talks, {RATED}",
            "data: 'talks' holds messages, grpo needs prompts / name a data set of that format",
        ),
        (
            "kind: grpo, from: base, data: asks, rewards: {}",
            "rewards: expected at least one entry, got none / add one, or leave the table out",
        ),
        (
            "kind: grpo, from: base, data: asks, rewards: {short: {model: nowhere}}",
            "rewards.short.model: unknown stage or adapter 'nowhere' / stage or adapters here: base, big, x",
        ),
        (
            "kind: grpo, from: base, data: asks, rewards: {short: {file: rewards/rate.py, function: sqrt}}",
            (
                "rewards.short.function: the file defines no function 'sqrt' / functions in it: rate; "
                "what it imports does not count"
            ),
        ),
        (
            "kind: grpo, from: base, data: asks, rewards: {short: {file: rewards/none.py, function: rate}}",
            (
                "rewards.short.file: rewards/none.py does not exist / "
                "write a file of Python, at most 1 MiB of UTF-8, that git keeps"
            ),
        ),
        (
            f"{DISTILL}, data: texts",
            "train.loss_on: rows of text have no assistant's turns to learn / write `loss_on: all`",
        ),
        (
            f"{DISTILL}, data: talks, train: {{top_p: 0.9}}",
            "train.top_p: rows of messages are learnt as they are, nothing is sampled / take it out",
        ),
        (
            "kind: distill, from: base, teacher: bg, data: asks",
            "teacher: unknown stage or adapter 'bg' / did you mean 'big'?",
        ),
    ],
)
def test_what_no_stage_could_do(tmp_path: Path, stage: str, said: str) -> None:
    assert faults(tmp_path, stage) == [f"stages.x.{said}"]


def test_a_judge_scores_and_a_teacher_writes(tmp_path: Path) -> None:
    more = ", w: {kind: sft, from: base, data: talks}, j: {kind: reward, from: base, data: likes}"
    assert faults(tmp_path, "kind: grpo, from: base, data: asks, rewards: {short: {model: w}}", more=more) == [
        "stages.x.rewards.short.model: 'w' writes texts / name a stage of kind reward, which scores them"
    ]
    assert faults(tmp_path, "kind: distill, from: base, data: asks, teacher: j", more=more) == [
        "stages.x.teacher: 'j' scores texts / name a model that writes them"
    ]


@pytest.mark.parametrize("text", ["def rate(:\n", "\0", "x = " + "(" * 300])
def test_what_is_no_python_is_told(tmp_path: Path, text: str) -> None:
    write(tmp_path, GRPO)
    (tmp_path / "rewards/rate.py").write_text(text)
    with pytest.raises(InvalidError, match=r"rewards/rate\.py is not valid Python"):
        load(tmp_path)


def test_the_file_is_never_run(tmp_path: Path) -> None:
    write(tmp_path, GRPO)
    (tmp_path / "rewards/rate.py").write_text(f"raise SystemExit\n{CODE}")
    load(tmp_path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    write(tmp_path, GRPO)
    (tmp_path / "rewards/rate.py").rename(tmp_path / "elsewhere.py")
    (tmp_path / "rewards/rate.py").symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(InvalidError, match=r"rewards/rate\.py is a link"):
        load(tmp_path)


def test_code_is_an_input_and_not_a_setting(tmp_path: Path) -> None:
    stage = "kind: grpo, from: base, data: asks, rewards: {short: {file: rewards/rate.py, function: rate, weight: 0.5}}"
    found = node(tmp_path, stage)
    assert [(edge.role, edge.name) for edge in found.edges] == [("from", "base"), ("data", "asks"), ("reward", "short")]
    code = found.edges[-1]
    assert code.source == CodeFile(path="rewards/rate.py")
    assert code.said == {"label": "short", "weight": 0.5, "function": "rate"}
    assert "rewards" not in found.action_settings()
    digests = [digest_bytes(name.encode()) for name in ("model", "rows", "code")]
    action = found.action(digests)
    other = node(tmp_path, stage.replace("weight: 0.5", "weight: 0.25")).action(digests)
    assert action.digest != other.digest
    assert action.digest != found.action([*digests[:2], digest_bytes(b"another")]).digest


def test_dvc_looks_at_the_code(tmp_path: Path) -> None:
    write(tmp_path, GRPO)
    text = compile_variant("v", build_graph(load(tmp_path)))
    assert "    - rewards/rate.py\n" in text


def test_models_among_rewards_are_inputs(tmp_path: Path) -> None:
    judge = ", judge: {kind: reward, from: base, data: likes}"
    stage = f"kind: rloo, from: base, data: asks, rewards: {{taste: {{model: judge}}, {RATED.partition('{')[2]}"
    edges = node(tmp_path, stage, more=judge).edges
    assert [(edge.role, str(edge.source)) for edge in edges[2:3]] == [("reward_model", "v:judge")]
    assert edges[2].said == {"label": "taste", "weight": 1.0}


def test_a_teacher_is_an_input(tmp_path: Path) -> None:
    edges = node(tmp_path, f"{DISTILL}, data: asks").edges
    assert [(edge.role, str(edge.source)) for edge in edges if edge.role != "data"] == [
        ("from", "bases:tiny"),
        ("teacher", "bases:large"),
    ]
