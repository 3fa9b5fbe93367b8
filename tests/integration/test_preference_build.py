"""Every kind that learns from preferences, and more text for a model, in one variant: built by a real `dvc repro`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from transformers import AutoModelForSequenceClassification

from registry.artifact import Artifact
from registry.record import artifact_folder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.team import Team

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

MANIFEST = """\
schema: 1
base: tiny
data:
  likes: {path: data/likes.jsonl, format: preference}
  marks: {path: data/marks.jsonl, format: unpaired}
  prose: {path: data/prose.jsonl, format: text}
stages:
  read: {kind: pretrain, from: base, data: prose, targets: mlp, train: {steps: 2, batch: 2, max_length: 16}}
  odds: {kind: orpo, from: read, data: likes, targets: attention, train: {steps: 2}}
  near: {kind: cpo, from: odds, data: likes, adapter: {rank: 2}, train: {steps: 2, loss: simpo}}
  nearer: {kind: kto, from: near, data: marks, train: {steps: 2}}
  liked: {kind: fold, from: odds, adapters: {nearer: 1.0}}
  headed: {kind: graft, from: liked, head: {type: reward}}
  judge: {kind: reward, from: headed, data: likes, adapter: {rank: 2}, train: {steps: 2}}
  scorer: {kind: fold, from: headed, adapters: {judge: 1.0}}
  score: {kind: evaluate, from: scorer, against: headed, metrics: {pair_accuracy: likes, pair_margin: likes}}
release: liked
checks: []
"""
STAGES = ("read", "odds", "near", "nearer", "liked", "headed", "judge", "scorer", "score")


def test_a_chain_of_methods_is_built_once(fresh: Team, tmp_path: Path) -> None:
    team = fresh.copy(tmp_path / "team")
    (team.root / "models/liked").mkdir()
    (team.root / "models/liked/model.yaml").write_text(MANIFEST)
    pairs = [json.loads(line) for line in (team.root / "data/likes.jsonl").read_text().splitlines()]
    marks = [
        {"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"}
        for pair in pairs
        for name in ("chosen", "rejected")
    ]
    (team.root / "data/marks.jsonl").write_text("".join(json.dumps(mark) + "\n" for mark in marks))
    prose = [{"text": "the miller grinds corn while the river turns the wheel"}] * 8
    (team.root / "data/prose.jsonl").write_text("".join(json.dumps(text) + "\n" for text in prose))
    team.must("varietal", "lint")
    team.must("varietal", "compile")
    plan = json.loads(team.must("varietal", "plan", "liked", "--json").out)
    verdicts = {one["stage"]: one["verdict"] for one in plan["stages"] if one["stage"].startswith("liked:")}
    assert verdicts == {f"liked:{stage}": "run" for stage in STAGES}
    answer = team.must("dvc", "repro", "models/liked/dvc.yaml")
    assert set(STAGES) <= set(answer.ran)
    assert team.must("dvc", "repro", "models/liked/dvc.yaml").ran == []
    for stage in STAGES:
        record = team.record(stage, "liked")
        artifact = Artifact.read(team.root / artifact_folder("liked", stage))
        assert artifact.digest == record.artifact.digest
    assert {"value", "against"} == set(team.record("score", "liked").metrics["pair_accuracy"])
    model = AutoModelForSequenceClassification.from_pretrained(team.root / artifact_folder("liked", "scorer"))
    assert model.config.num_labels == 1
