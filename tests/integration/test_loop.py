"""The loop: a manifest, a real `dvc repro`, and only what changed is built again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from registry.artifact import Artifact
from registry.record import artifact_folder, artifact_record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.team import Team

STAGES = ("tone", "toned", "pref", "final", "score")


def test_a_plain_repro_builds_everything(built: Team) -> None:
    for stage in STAGES:
        record = built.record(stage)
        folder = built.root / artifact_folder("support", stage)
        artifact = Artifact.read(folder)
        artifact.verify_folder(folder)
        assert artifact.digest == record.artifact.digest
        assert (built.root / artifact_record("support", stage)).read_bytes() == record.to_bytes()
    assert built.record("final").depends_on == ()
    assert built.record("tone").depends_on != ()
    assert built.must("git", "status", "--porcelain").out == ""


def test_the_result_loads_with_transformers_and_nothing_of_ours(built: Team) -> None:
    place = built.root / "models/support/artifacts"
    toned = AutoModelForCausalLM.from_pretrained(place / "toned", dtype=torch.float32)
    final = AutoModelForCausalLM.from_pretrained(place / "final", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(toned, place / "pref")
    tokens = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        gap = (adapted(tokens).logits - final(tokens).logits).abs().max()
    assert gap < 0.02  # one rounding to bfloat16 apart


def test_a_second_repro_runs_nothing(team: Team) -> None:
    assert team.must("dvc", "repro").ran == []
    assert team.must("git", "status", "--porcelain").out == ""


def test_comments_and_order_rerun_nothing(team: Team) -> None:
    path = team.root / "models/support/model.yaml"
    text = path.read_text().replace("train: {steps: 2, batch: 2}", "train: {batch: 2, steps: 2}")
    path.write_text(f"# a comment\n{text}")
    team.must("varietal", "compile", "--check")
    assert team.must("dvc", "repro").ran == []


def test_a_new_bound_reruns_nothing_and_is_judged(team: Team) -> None:
    team.edit("max_increase: 1.0", "max: 0.001")
    assert team.must("dvc", "repro").ran == []
    answer = team.call("varietal", "gate", "support")
    assert answer.code == 1
    assert "FAIL  bits_per_byte of score is" in answer.out
    assert "it must be at most 0.001" in answer.out


def test_a_new_beta_reruns_dpo_and_what_follows_and_going_back_trains_nothing(team: Team) -> None:
    before = team.record("final").artifact.digest
    team.edit("beta: 0.1", "beta: 0.5")
    assert team.must("dvc", "repro").ran == ["pref", "final", "score", "records"]
    assert team.record("final").artifact.digest != before
    team.edit("beta: 0.5", "beta: 0.1")
    answer = team.must("dvc", "repro")
    assert answer.ran == ["records"]
    assert answer.out.count("is cached - skipping run, checking out outputs") == 3
    assert team.record("final").artifact.digest == before
    assert team.must("git", "status", "--porcelain").out == ""


def test_a_copied_variant_trains_nothing(team: Team) -> None:
    (team.root / "models/copy").mkdir()
    (team.root / "models/copy/model.yaml").write_text((team.root / "models/support/model.yaml").read_text())
    team.must("varietal", "compile")
    answer = team.must("dvc", "repro", "models/copy/dvc.yaml")
    assert answer.ran == [*STAGES, "records"]
    for stage in STAGES:
        copied, original = team.record(stage, "copy"), team.record(stage)
        assert copied.reused_from == f"support:{stage}"
        assert copied.artifact == original.artifact
        assert copied.metrics == original.metrics
        assert {one.source for one in copied.inputs} & {one.source for one in original.inputs} <= {
            "bases:tiny",
            *(f"data:data/{name}.jsonl" for name in ("talks", "likes", "heldout")),
        }


def test_reuse_reaches_into_history_and_the_remote(team: Team) -> None:
    """Another variant asks for what an earlier commit had, in a clone without a cache and after its folder is gone."""
    manifest = (team.root / "models/support/model.yaml").read_text()
    team.must("git", "rm", "-r", "--quiet", "models/support")
    team.commit("Remove the variant")
    clone = team.root.parent / "clone"
    team.must("git", "clone", "--quiet", str(team.root), str(clone))
    other = type(team)(root=clone)
    (clone / "models/later").mkdir()
    (clone / "models/later/model.yaml").write_text(manifest)
    other.must("varietal", "compile")
    other.must("dvc", "repro", "--pull", "--allow-missing", "models/later/dvc.yaml")
    assert [other.record(stage, "later").reused_from for stage in STAGES] == [f"support:{stage}" for stage in STAGES]


@pytest.mark.slow
def test_two_builds_of_one_commit_are_equal(built: Team, fresh: Team, tmp_path: Path) -> None:
    other = fresh.copy(tmp_path / "team")
    other.must("dvc", "repro")
    assert {stage: other.record(stage).artifact for stage in STAGES} == {
        stage: built.record(stage).artifact for stage in STAGES
    }


def test_a_plain_repro_is_repro_of_all_pipelines(built: Team) -> None:
    plain = built.must("dvc", "repro", "--dry", "--force").ran
    assert plain == built.must("dvc", "repro", "--dry", "--force", "--all-pipelines").ran
    assert sorted(plain) == sorted(["base@tiny", "records@tiny", *STAGES, "records"])


def test_a_fresh_clone_fetches_only_what_a_changed_stage_needs(team: Team, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    team.must("git", "clone", "--quiet", str(team.root), str(clone))
    other = type(team)(root=clone)
    assert other.must("dvc", "repro", "--pull", "--allow-missing").ran == []
    assert not (clone / "models/support/artifacts").exists()
    other.edit("{tone: 1.0}", "{tone: 0.5}")
    other.must("dvc", "repro", "--pull", "--allow-missing", "--single-item", "models/support/dvc.yaml:toned")
    present = {path.name for path in (clone / "models/support/artifacts").iterdir() if path.is_dir()}
    assert present == {"tone", "toned"}


def test_what_a_branch_claims_that_was_never_merged_is_not_reused(built: Team, fresh: Team, tmp_path: Path) -> None:
    """Its records and its bytes are within reach, but nobody has approved them."""
    other = fresh.copy(tmp_path / "team")
    other.must("dvc", "remote", "add", "--local", "--quiet", "--default", "store", str(built.root.parent / "remote"))
    other.must("git", "fetch", "--quiet", str(built.root), "main:refs/remotes/fork/main")
    answer = other.must("varietal", "run", "bases", "tiny")
    assert "is this very artifact" not in answer.err
    other.must("git", "merge", "--quiet", "fork/main")
    other.must("rm", "-rf", "bases/tiny", "bases/tiny.json")
    answer = other.must("varietal", "run", "bases", "tiny")
    assert "bases:tiny is this very artifact; nothing is computed" in answer.err
