"""The registry's verbs on a repository as `dvc repro` leaves it: what they print, in text and in JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.cli import app
from registry.cli import open_store
from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.published import Published
from registry.refs import Version
from registry.report import report_variants
from registry.tag_message import Promise, release_message
from tests.repositories import Team, data_input, git, input_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.canonical import JSON
    from registry.record import Record

ROWS = b'{"text": "a"}\n'


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    """A base, a tone trained on rows, a final; released as v1.0.0 and v1.1.0; prod is v1.1.0."""
    team = Team.make(tmp_path / "team")
    (team.root / "data").mkdir()
    (team.root / "data" / "rows.jsonl").write_bytes(ROWS)
    base = team.build("bases:tiny", {"a": b"base", "b": b"same"}, kind="import")
    tone = team.build("support:tone", {"a": b"tone"}, inputs=[input_from(base), data_input("data/rows.jsonl", ROWS)])
    for version in ("v1.0.0", "v1.1.0"):
        final = _final(team, base, tone, version)
        team.commit(f"Build {version}")
        ref = Version("support", version)
        team.repository.create_tag(str(ref), "HEAD", release_message(ref, Promise.of(final)))
    (team.root / "models" / "draft").mkdir()
    (team.root / "models" / "draft" / "model.yaml").write_text("schema: 1\n")
    monkeypatch.chdir(team.root)
    monkeypatch.setenv("VARIETAL_STORE", str(tmp_path / "store"))
    return team


def _final(team: Team, base: Record, tone: Record, version: str) -> Record:
    return team.build(
        "support:final",
        {"a": version.encode(), "b": b"same"},
        kind="fold",
        inputs=[input_from(base), input_from(tone, "adapter")],
        settings={"weights": {"tone": 1.0}},
        metrics={"loss": {"value": 1.5, "against": 2.0}},
    )


@pytest.fixture
def call(team: Team, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a verb and return what it printed to stdout."""

    def run(*arguments: str) -> str:
        assert team.root.is_dir()
        capsys.readouterr()
        app(arguments, standalone_mode=False)
        return capsys.readouterr().out

    return run


@pytest.fixture
def ask(call: Callable[..., str]) -> Callable[..., JSON]:
    """Run a verb with --json and return its answer."""
    return lambda *arguments: json.loads(call(*arguments, "--json"))


def digest(team: Team, ref: str) -> str:
    return str(team.digest_of(ref))


def test_list(call: Callable[..., str], ask: Callable[..., JSON]) -> None:
    call("promote", "support@v1.1.0", "prod")
    assert call("list").splitlines() == ["draft    -", "support  v1.1.0  prod v1.1.0"]
    assert ask("list") == [
        {"variant": "draft", "versions": [], "withdrawn": [], "channels": {}, "deprecated": None, "declared": True},
        {
            "variant": "support",
            "versions": ["v1.0.0", "v1.1.0"],
            "withdrawn": [],
            "channels": {"prod": "v1.1.0"},
            "deprecated": None,
            "declared": True,
        },
    ]


def test_one_bad_tag_is_named_and_hinders_nobody(
    team: Team, call: Callable[..., str], ask: Callable[..., JSON], capsys: pytest.CaptureFixture[str]
) -> None:
    call("promote", "support@v1.0.0", "prod")
    call("promote", "support@v1.0.0", "staging")
    team.repository.create_tag("support#prod#3", "HEAD", 'x\n\n{"schema": "varietal/assignment/1"}\n')
    assert ask("list")[-1]["channels"] == {"staging": "v1.0.0"}
    app(["list"], standalone_mode=False)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["draft    -", "support  v1.1.0  staging v1.0.0"]
    assert printed.err.startswith("left out, tag support#prod#3: artifact_digest, channel, rollback, ")
    first = ask("log", "support#prod")[0]
    assert (first["version"], first["number"]) == (None, 3)
    assert first["problem"].startswith("artifact_digest, channel, ")
    assert "support#prod#3 -> unreadable: artifact_digest, " in call("log", "support#prod")
    call("rollback", "support#prod")
    assert ask("list")[-1]["channels"] == {"prod": "v1.0.0", "staging": "v1.0.0"}


def test_a_folder_that_no_variant_can_be_called_is_not_listed(team: Team, ask: Callable[..., JSON]) -> None:
    odd = Path(os.fsdecode(os.fsencode(team.root / "models") + b"/\xff"))
    odd.mkdir()
    (odd / "model.yaml").touch()
    assert [row["variant"] for row in ask("list")] == ["draft", "support"]


def test_list_of_nothing() -> None:
    report = report_variants({}, Published.read([]))
    assert (report.json, [*report.lines]) == ([], [])


def test_show(team: Team, call: Callable[..., str], ask: Callable[..., JSON]) -> None:
    lines = call("show", "support@v1.1.0").splitlines()
    assert lines[0] == "ref         support@v1.1.0 is support@v1.1.0"
    assert lines[1] == "stage       support:final (fold, recipe 1)"
    assert lines[3] == f"artifact    model {digest(team, 'support:final')}"
    assert f"from        adapter support:tone {digest(team, 'support:tone')}" in lines
    assert "metric      loss: value 1.5, against 2" in lines
    assert "setting     weights: tone 1.0" in lines
    assert "depends on  nothing else: any machine gives these bytes" in lines
    answer = ask("show", "support:final")
    assert (answer["ref"], answer["commit"], answer["version"]) == ("support:final", None, None)
    assert answer["record"] == json.loads((team.root / "models/support/records/final.json").read_bytes())


def test_a_subject_cannot_steer_the_terminal(team: Team, call: Callable[..., str]) -> None:
    (team.root / "models/support/model.yaml").write_text("schema: 1\n\n")
    team.commit("\x1b[2Jone\u202etwo")
    assert r"  \x1b[2Jone\u202etwo" in call("log", "support")


def test_log(team: Team, call: Callable[..., str], ask: Callable[..., JSON]) -> None:
    for version in ("v1.0.0", "v1.1.0"):
        call("promote", f"support@{version}", "prod")
    call("rollback", "support#prod")
    events = ask("log", "support")
    assert [event["event"] for event in events if event["event"] != "commit"].count("release") == 2
    assert [event["subject"] for event in events if event["event"] == "commit"] == ["Build v1.1.0", "Build v1.0.0"]
    channel = ask("log", "support#prod")
    assert [(event["event"], event["version"], event["number"]) for event in channel] == [
        ("rollback", "v1.0.0", 3),
        ("promote", "v1.1.0", 2),
        ("promote", "v1.0.0", 1),
    ]
    first = git(team.root, "rev-parse", "--short=12", "support@v1.0.0^{}").strip()
    assert call("log", "support#prod").splitlines()[0].endswith(f"  rollback {first}  support#prod#3 -> v1.0.0")
    assert [event["subject"] for event in ask("log", "support:tone")] == ["Build v1.0.0"]
    with pytest.raises(InvalidError) as caught:
        call("log", "support@v1.0.0")
    assert caught.value.what == "support@v1.0.0 has no history of its own"


def test_lineage(team: Team, call: Callable[..., str], ask: Callable[..., JSON]) -> None:
    base, tone, final = (team.digest_of(ref).short for ref in ("bases:tiny", "support:tone", "support:final"))
    rows = data_input("data/rows.jsonl", ROWS).digest.short
    assert call("lineage", "support:final").splitlines() == [
        f"support:final  fold -> model  sha256:{final}",
        f"├─ from  bases:tiny  import -> model  sha256:{base}",
        f"└─ adapter  support:tone  sft -> model  sha256:{tone}",
        f"   ├─ from  bases:tiny  import -> model  sha256:{base}",
        f"   └─ data  data:data/rows.jsonl  sha256:{rows}",
    ]
    touched = ask("lineage", "--down", "data/rows.jsonl")
    assert [node["name"] for node in touched["nodes"]][:2] == ["data/rows.jsonl", "support:tone"]
    assert len(touched["nodes"]) == 4
    by_ref = ask("lineage", "--down", "bases:tiny")
    by_digest = ask("lineage", "--down", digest(team, "bases:tiny")[:20])
    assert {node["digest"] for node in by_ref["nodes"]} == {node["digest"] for node in by_digest["nodes"]}
    with pytest.raises(NotFoundError) as caught:
        call("lineage", "--down", "sha256:00000000")
    assert caught.value.what == "nothing here has the digest of sha256:00000000"


def test_find(team: Team, call: Callable[..., str], ask: Callable[..., JSON]) -> None:
    found = ask("find", digest(team, "support:tone")[:24])
    assert {match["as"] for match in found} == {"artifact", "input"}
    listing = json.loads((team.root / "models/support/artifacts/final/artifact.json").read_bytes())
    same = next(tensor["digest"] for tensor in listing["tensors"] if tensor["name"] == "b")
    found = ask("find", same)
    assert {(match["as"], match["name"]) for match in found} == {("tensor", "b")}
    assert {seen["ref"] for match in found for seen in match["seen"]} == {"bases:tiny", "support:final"}
    lines = call("find", "models/support/artifacts/final/model.safetensors").splitlines()
    assert lines[0].split() == ["file", "model.safetensors", "support:final", "work", "tree"]
    with pytest.raises(InvalidError) as caught:
        call("find", "nonsense")
    assert caught.value.what == "'nonsense' is neither a digest nor a file"
    with pytest.raises(NotFoundError):
        call("find", "sha256:00000000")


def test_verify(team: Team, call: Callable[..., str], ask: Callable[..., JSON]) -> None:
    lines = call("verify", "support@v1.1.0", "models/support/artifacts/final").splitlines()
    assert [line[:2] for line in lines[:9]] == [f"{step}." for step in range(1, 10)]
    assert lines[9:] == ["the tag's signature is missing, or git knows no key for it"]
    answer = ask("verify", "support:final")
    assert answer["artifact_digest"] == digest(team, "support:final")
    assert (answer["folder"], answer["tag_signature_verified"], len(answer["steps"])) == (None, None, 5)


def test_the_log_of_nothing_is_not_found(call: Callable[..., str]) -> None:
    for subject in ("suport", "support:tonne", "support#staging"):
        with pytest.raises(NotFoundError) as caught:
            call("log", subject)
        assert caught.value.what == f"nothing is known of {subject}: no commit, no release, no channel"


def test_promote_and_rollback(team: Team, ask: Callable[..., JSON]) -> None:
    commit = team.repository.resolve("support@v1.0.0")
    assert ask("promote", "support@v1.0.0", "prod") == {"tag": "support#prod#1", "commit": commit, "written": []}
    with pytest.raises(ConflictError):
        ask("promote", "support@v1.0.0", "prod")
    ask("promote", "support@v1.1.0", "prod")
    assert ask("rollback", "support#prod") == {"tag": "support#prod#3", "commit": commit, "written": []}
    for verb, ref in (("promote", "support:final"), ("rollback", "support@v1.0.0")):
        with pytest.raises(InvalidError):
            ask(verb, ref, *(["prod"] if verb == "promote" else []))


def test_pull(team: Team, tmp_path: Path, call: Callable[..., str], ask: Callable[..., JSON]) -> None:
    answer = ask("pull", "support@v1.0.0", str(tmp_path / "model"))
    assert answer["moved_from"].keys() == {"the DVC cache"}
    assert (answer["version"], answer["commit"]) == ("v1.0.0", team.repository.resolve("support@v1.0.0"))
    assert (tmp_path / "model" / "model.safetensors").read_bytes().endswith(b"v1.0.0same")
    assert call("pull", "support@v1.0.0", str(tmp_path / "model")).startswith("support@v1.0.0 is there already: model ")


def test_index(team: Team, call: Callable[..., str], ask: Callable[..., JSON]) -> None:
    (team.root / "models/support/records/bad.json").write_text("{}")
    assert call("index").splitlines()[0] == "4 records (0 new) of 4 artifacts, 4 with their tensors"
    answer = ask("index")
    assert (answer["records"], answer["artifacts"], answer["tensor_tables"]) == (4, 4, 4)
    assert [problem["path"] for problem in answer["problems"]] == ["models/support/records/bad.json"]


def test_a_place_that_is_no_repository(
    call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(NotFoundError) as caught:
        call("list")
    assert caught.value.what == "this is not a git repository"


def test_the_store_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIETAL_STORE", str(tmp_path))
    assert open_store().folder == tmp_path
    monkeypatch.delenv("VARIETAL_STORE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store().folder == tmp_path / ".cache" / "varietal"


def test_a_pull_where_there_is_no_checkout(
    team: Team, tmp_path: Path, ask: Callable[..., JSON], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remote is a folder of objects, named in the repository's DVC configuration."""
    (team.root / ".dvc" / "cache").rename(tmp_path / "remote")
    (team.root / ".dvc" / "config").write_text(
        f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {tmp_path / 'remote'}\n"
    )
    team.commit("Name the remote")
    monkeypatch.chdir(tmp_path)
    answer = ask("pull", "support@v1.1.0", "model", "--repo", str(team.root))
    assert answer["moved_from"].keys() == {"remote 'storage'"}
    assert (tmp_path / "model" / "model.safetensors").read_bytes().endswith(b"v1.1.0same")
    again = ask("pull", "support@v1.1.0", "model", "--repo", str(team.root))
    assert again["kept"]
