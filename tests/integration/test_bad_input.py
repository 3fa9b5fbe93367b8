"""What a user does wrong, by the real command: one clear error each, its exit code, and nothing lost."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.team import Team

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def declared(fresh: Team, tmp_path: Path) -> Team:
    """A repository that is declared and not built."""
    return fresh.copy(tmp_path / "team")


def lint(team: Team, old: str, new: str) -> str:
    path = team.root / "models/support/model.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    answer = team.call("varietal", "lint")
    assert answer.code == 4, answer.out
    assert team.call("varietal", "compile").code == 4
    return answer.err


@pytest.mark.parametrize(
    ("old", "new", "line", "parts"),
    [
        ("beta: 0.1", "betta: 0.1", 12, ("stages.pref.train.betta", "beta")),
        ("kind: dpo", "kind: dpoo", 12, ("stages.pref.kind", "dpo")),
        ("from: toned, data", "from: tonned, data", 12, ("stages.pref.from", "toned")),
        ("data: talks", "data: talk", 10, ("stages.tone.data", "talks")),
        ("base: tiny", "base: tinny", 4, ("base", "tiny")),
        ("data/talks.jsonl", "data/gone.jsonl", 6, ("data.talks.path", "data/gone.jsonl does not exist")),
        ("data/talks.jsonl", "../talks.jsonl", 6, ("data.talks.path", "within the repository")),
        ("{tone: 1.0}", "{tone: heavy}", 11, ("stages.toned.adapters.tone", "number")),
        ("release: final", "release: finale", 15, ("release", "final")),
        ("metric: bits_per_byte", "metric: bits_per_bite", 17, ("checks[0].metric", "bits_per_byte")),
    ],
)
def test_a_manifest_at_fault(declared: Team, old: str, new: str, line: int, parts: tuple[str, ...]) -> None:
    said = lint(declared, old, new)
    assert f"models/support/model.yaml:{line}: " in said
    for part in parts:
        assert part in said
    assert "nothing was changed" in said


def test_a_cycle(declared: Team) -> None:
    said = lint(declared, "toned: {kind: fold, from: base", "toned: {kind: fold, from: final")
    assert said == (
        "models/support/model.yaml:13: stages.final: a cycle: "
        "support:final -> support:toned -> support:pref -> support:final\n"
        "  mend: let one of them start from something else\n"
        "1 fault found: correct every one; nothing was changed\n"
    )


def test_all_faults_of_all_manifests_at_once(declared: Team) -> None:
    other = declared.root / "models/second"
    other.mkdir()
    (other / "model.yaml").write_text("schema: 1\nbase: nowhere\nstages: {}\nrelease: x\n")
    said = lint(declared, "beta: 0.1", "betta: 0.1")
    assert "models/second/model.yaml:2: base" in said
    assert "models/support/model.yaml:12: stages.pref.train.betta" in said


def test_a_malformed_row(declared: Team) -> None:
    path = declared.root / "data/talks.jsonl"
    rows = path.read_text().splitlines()
    rows[3] = json.dumps({"messages": [{"role": "user", "content": 7}]})
    path.write_text("\n".join(rows) + "\n")
    declared.must("dvc", "repro", "bases/dvc.yaml")
    answer = declared.call("varietal", "run", "support", "tone")
    assert answer.code == 4
    assert "talks.jsonl:4: messages[0].content" in answer.err


def test_an_empty_data_set(declared: Team) -> None:
    (declared.root / "data/talks.jsonl").write_text("")
    declared.must("dvc", "repro", "bases/dvc.yaml")
    answer = declared.call("varietal", "run", "support", "tone")
    assert answer.code == 4
    assert answer.err == (
        "data/talks.jsonl: no rows in the file\n"
        "  mend: write at least one\n"
        "1 fault found: correct every one; nothing was changed\n"
    )


def test_a_selector_that_matches_nothing(declared: Team) -> None:
    declared.edit("targets: attention", "targets: router")
    declared.must("dvc", "repro", "bases/dvc.yaml")
    answer = declared.call("varietal", "run", "support", "tone")
    assert answer.code == 4
    assert "router" in answer.err
    assert "mend: " in answer.err


def test_an_adapter_of_an_unrelated_base(team: Team) -> None:
    """An adapter of this base, folded into the import of another one."""
    other = team.root / "sources/other"
    shutil.copytree(team.root / "sources/tiny", other)
    shard = other / "model.safetensors"
    data = bytearray(shard.read_bytes())
    data[-2] ^= 1
    shard.write_bytes(data)
    entry = json.loads(team.must("varietal", "pin", "sources/other", "--json").out)
    params = team.root / "params.yaml"
    text = params.read_text().replace(
        "bases:\n", f'bases:\n  other: {{path: {entry["path"]}, sha256: "{entry["sha256"]}"}}\n'
    )
    params.write_text(text)
    (team.root / "models/stray").mkdir()
    (team.root / "models/stray/model.yaml").write_text(
        "schema: 1\nbase: other\nadapters: {tone: {variant: support, stage: tone}}\n"
        "stages: {mixed: {kind: fold, from: base, adapters: {tone: 1.0}}}\nrelease: mixed\n"
    )
    team.must("varietal", "compile")
    team.must("dvc", "repro", "bases/dvc.yaml")
    answer = team.call("varietal", "run", "stray", "mixed")
    assert answer.code == 4
    assert "tone" in answer.err
    assert "unrelated" in answer.err
    assert not (team.root / "models/stray/artifacts/mixed").exists()


def test_a_stage_that_is_not_there(declared: Team) -> None:
    answer = declared.call("varietal", "run", "support", "tonne")
    assert answer.code == 2
    assert answer.err == (
        "there is no stage support:tonne\n  where: models/support/model.yaml\n  mend: did you mean support:tone?\n"
    )


def test_an_input_that_was_not_built(declared: Team) -> None:
    answer = declared.call("varietal", "run", "support", "toned")
    assert answer.code == 2
    assert "there is no artifact.json\n" in answer.err
    assert "mend: build the stage (`dvc repro`)" in answer.err


def test_a_stale_pipeline(declared: Team) -> None:
    path = declared.root / "models/support/model.yaml"
    path.write_text(path.read_text().replace("from: toned, data: likes", "from: base, data: likes"))
    answer = declared.call("varietal", "compile", "--check")
    assert answer.code == 1
    assert answer.out == "models/support/dvc.yaml\n"
    answer = declared.call("varietal", "run", "support", "pref")
    assert answer.code == 4
    assert "the pipeline is not what the manifests say" in answer.err


@pytest.mark.parametrize("variant", ["gone", "../.."])
def test_records_of_a_variant_that_is_not_there_are_left_alone(declared: Team, variant: str) -> None:
    kept = declared.root / "models" / variant / "records" / "kept.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("{}")
    answer = declared.call("varietal", "run", variant, "records")
    assert answer.code in {2, 4}
    assert kept.exists()


def test_a_record_of_a_stage_that_is_not_there(declared: Team) -> None:
    answer = declared.call("varietal", "run", "bases", "records", "tinny")
    assert answer.code == 2
    assert answer.err.startswith("there is no stage bases:tinny\n  where: params.yaml\n")


def test_a_folder_where_a_file_should_be(declared: Team) -> None:
    (declared.root / ".varietal/runner.yaml").mkdir(parents=True)
    answer = declared.call("varietal", "run", "bases", "tiny")
    assert answer.code == 8
    assert answer.err.startswith("cannot read or write: Is a directory\n  where: ")
    assert ".varietal/runner.yaml\n  mend: " in answer.err


@pytest.mark.parametrize("base", ["Tiny=sources/tiny", "tiny=../team/sources/tiny"])
def test_a_base_that_could_not_be_declared(declared: Team, base: str) -> None:
    (declared.root / "params.yaml").unlink()
    answer = declared.call("varietal", "init", ".", "--base", base)
    assert answer.code == 4
    assert answer.err.startswith("params.yaml: bases.")
    assert not (declared.root / "params.yaml").exists()


def test_init_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = Team(root=tmp_path).call("varietal", "init", "file")
    assert answer.code == 5
    assert answer.err.startswith("a file is there already\n  where: file\n")


def test_a_recipe_that_this_tool_does_not_have(declared: Team) -> None:
    params = declared.root / "params.yaml"
    params.write_text(params.read_text().replace("sft: 1", "sft: 2"))
    answer = declared.call("varietal", "run", "support", "tone")
    assert answer.code == 1
    assert "recipe 2 of kind 'sft' is pinned, this tool has 1" in answer.err


def test_a_base_that_is_not_its_pin(declared: Team) -> None:
    (declared.root / "sources/tiny/config.json").write_text("{}")
    answer = declared.call("varietal", "run", "bases", "tiny")
    assert answer.code == 3
    assert "the folder has sha256:" in answer.err


def test_not_a_git_repository(tmp_path: Path) -> None:
    for command in (("lint",), ("list",), ("run", "a", "b"), ("release", "a@v1.0.0")):
        answer = Team(root=tmp_path).call("varietal", *command)
        assert answer.code == 2
        assert answer.err.startswith("this is not a git repository\n")


def test_dvc_is_not_initialised(team: Team) -> None:
    shutil.rmtree(team.root / ".dvc")
    team.commit("Lose DVC")
    answer = team.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 2
    assert "dvc init" in answer.err


def test_init_touches_nothing_that_is_there(declared: Team) -> None:
    before = (declared.root / "params.yaml").read_bytes()
    answer = declared.call("varietal", "init", ".")
    assert answer.code == 5
    assert "params.yaml" in answer.err
    assert (declared.root / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("command", [("frobnicate",), ("show",), ("pull", "support@v1.0.0"), ("list", "--jsn")])
def test_usage(declared: Team, command: tuple[str, ...]) -> None:
    answer = declared.call("varietal", *command)
    assert answer.code == 4
    assert answer.out == ""
    assert answer.err


@pytest.mark.parametrize("ref", ["support", "support@1.0", "../x:y", "sha256:12", "support:final@--upload-pack=x"])
def test_what_is_no_ref(declared: Team, ref: str) -> None:
    answer = declared.call("varietal", "show", ref)
    assert answer.code == 4
    assert "is not a ref" in answer.err
