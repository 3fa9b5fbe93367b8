"""Every kind that makes weights from weights, in one variant: built by a real `dvc repro`, and computed again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from registry.artifact import Artifact
from registry.record import artifact_folder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.team import Team

MANIFEST = """\
schema: 1
base: tiny
data:
  talks: {path: data/talks.jsonl, format: messages}
adapters:
  tone: {variant: support, stage: tone}
stages:
  other: {kind: sft, from: base, data: talks, adapter: {rank: 3, targets: [attention, mlp]}, train: {steps: 1}}
  both: {kind: fuse, adapters: {tone: 0.5, other: [0.2, 1.0]}}
  toned: {kind: fold, from: base, adapters: {both: 1.0}}
  othered: {kind: fold, from: base, adapters: {other: [{on: attention, value: 1.0}]}}
  mixed:
    kind: blend
    method: ties
    models: {toned: {weight: 0.7, density: 0.5}, othered: 0.3}
    against: base
    methods:
    - {on: norm, method: linear}
  difference: {kind: extract, from: mixed, against: base, rank: 2}
  grown: {kind: graft, from: mixed, vocabulary: {tokens: [quern], special: ["<|tool|>"]}, untie: true}
  wide: {kind: cast, from: grown, dtype: float32}
  more: {kind: fold, from: mixed, adapters: {tone: 1.0}}
release: grown
checks: []
"""
STAGES = ("other", "both", "toned", "othered", "mixed", "difference", "grown", "wide", "more")


@pytest.fixture(scope="module")
def mixed(built: Team, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """A second variant beside the first, built."""
    team = built.copy(tmp_path_factory.mktemp("mixed") / "team")
    (team.root / "models/mixed").mkdir()
    (team.root / "models/mixed/model.yaml").write_text(MANIFEST)
    team.must("varietal", "lint")
    team.must("varietal", "compile")
    answer = team.must("dvc", "repro", "models/mixed/dvc.yaml")
    assert answer.ran == [*STAGES, "records"]
    team.commit("Mix")
    return team


def folder(team: Team, stage: str) -> Path:
    return team.root / artifact_folder("mixed", stage)


def test_each_stage_gives_a_whole_artifact_and_a_record(mixed: Team) -> None:
    for stage in STAGES:
        record = mixed.record(stage, "mixed")
        artifact = Artifact.read(folder(mixed, stage))
        artifact.verify_folder(folder(mixed, stage))
        assert artifact.digest == record.artifact.digest
    exact = {stage for stage in STAGES if mixed.record(stage, "mixed").depends_on == ()}
    assert {"toned", "othered", "mixed", "grown", "more"} <= exact
    assert "difference" not in exact


def test_a_second_repro_runs_nothing(mixed: Team) -> None:
    assert mixed.must("dvc", "repro", "models/mixed/dvc.yaml").ran == []


def test_all_of_it_is_computed_again_to_the_same_bytes(mixed: Team) -> None:
    found = json.loads(mixed.must("varietal", "verify", "mixed:wide", "--recompute", "--json").out)["recomputed"]
    stages = {one["ref"].partition(":")[2]: one["verdict"] for one in found["stages"]}
    assert stages == dict.fromkeys(["tiny", "both", "toned", "othered", "mixed", "grown", "wide"], "same") | {
        "tone": "recorded",
        "other": "recorded",
    }
    assert (found["proven"], found["of"]) == (7, 9)
    order = [stage for stage in stages if stage not in {"tiny", "tone", "other", "toned", "othered"}]
    assert order == ["both", "mixed", "grown", "wide"]


def test_a_difference_is_computed_again_with_its_figures(mixed: Team) -> None:
    answer = mixed.must("varietal", "verify", "mixed:difference", "--recompute", "--json")
    assert json.loads(answer.out)["recomputed"]["stages"][-1]["verdict"] == "same"


def test_the_models_and_the_adapters_load_with_nothing_of_ours(mixed: Team) -> None:
    words = {}
    for stage in ("mixed", "grown", "wide"):
        model = AutoModelForCausalLM.from_pretrained(folder(mixed, stage), dtype=torch.float32)
        words[stage] = model.get_input_embeddings().weight.shape[0]
    assert words["grown"] == words["wide"] == words["mixed"] + 2
    base = mixed.root / artifact_folder("bases", "tiny")
    for stage in ("both", "difference"):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        assert PeftModel.from_pretrained(model, folder(mixed, stage)) is not None


def test_an_adapter_goes_on_into_a_blend_of_its_models_descendants(mixed: Team) -> None:
    (note,) = mixed.record("more", "mixed").notes
    assert note.startswith("adapter tone was rebased: trained on weights ")
    assert note.endswith(", an ancestor of mixed")
