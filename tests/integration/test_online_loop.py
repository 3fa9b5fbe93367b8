"""Rewards in a real repository: code and reward model are inputs of the stage, and what changes is built again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from registry.digest import digest_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.team import Team

MANIFEST = """\
schema: 1
base: tiny
data:
  likes: {path: data/likes.jsonl, format: preference}
  asks: {path: data/asks.jsonl, format: prompts}
stages:
  judge: {kind: reward, from: base, data: likes, train: {steps: 2, batch: 2, max_length: 64}}
  short:
    kind: grpo
    from: base
    data: asks
    adapter: {rank: 2, targets: attention}
    rewards:
      length: {file: rewards/length.py, function: rate, weight: 0.5}
      taste: {model: judge}
    train: {steps: 2, batch: 4, num_generations: 2, max_length: 64, max_completion_length: 8, learning_rate: 1e-2}
  final: {kind: fold, from: base, adapters: {short: 1.0}}
release: final
checks: []
"""
CODE = "def rate(completions, most):\n    return [float(most[0] - len(one)) for one in completions]\n"


@pytest.mark.slow
def test_a_reward_is_an_input(fresh: Team, tmp_path: Path) -> None:
    team = fresh.copy(tmp_path / "team")
    (team.root / "models/support/model.yaml").write_text(MANIFEST)
    (team.root / "rewards").mkdir()
    (team.root / "rewards/length.py").write_text(CODE)
    rows = [{"prompt": f"tell me of {one}", "most": 4} for one in ("the sky", "the sea", "the corn")]
    (team.root / "data/asks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    team.must("varietal", "compile")
    team.must("varietal", "lint")
    team.must("dvc", "repro")
    record = team.record("short")
    assert {(one.role, one.name, one.source) for one in record.inputs} == {
        ("from", "base", "bases:tiny"),
        ("data", "asks", "data:data/asks.jsonl"),
        ("reward", "length", "code:rewards/length.py"),
        ("reward_model", "judge", "support:judge"),
    }
    assert {"train_reward_length", "train_reward_taste"} <= record.metrics.keys()
    said = {one.role: one.settings for one in record.action.inputs}
    assert said["reward"] == {"label": "length", "weight": 0.5, "function": "rate"}
    team.commit("Build")
    assert team.must("dvc", "repro").ran == []
    team.must("varietal", "gate", "support")
    assert "rewards/length.py" in team.must("varietal", "show", "support:short").out
    assert "judge" in team.must("varietal", "lineage", "support:final").out
    assert team.call("varietal", "verify", "--recompute", "support:final").code == 0

    code = team.root / "rewards/length.py"
    code.write_text(f"{CODE}# more\n")
    assert "code length (rewards/length.py) changed" in team.must("varietal", "plan").out
    again = team.must("dvc", "repro")
    assert again.ran == ["short", "records"]  # the same numbers: the same adapter
    assert team.record("short").artifact.digest == record.artifact.digest
    assert digest_file(code) in {one.digest for one in team.record("short").inputs}

    code.write_text(CODE.replace("most[0] -", "most[1] * most[0] -").replace("completions, most", "completions, least"))
    answer = team.call("dvc", "repro")
    assert answer.code != 0
    assert "the reward function needs 'least', and no row has such a column" in answer.err
