"""What a stage that was taken over gains by writing to the tree that it is built in: nothing at whoever comes after."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from builder.request.assembled import STATE_FILE
from builder.request.open import open_built
from builder.request.plumbing import git as plumbing
from builder.runner import Runner, read_runner
from registry.errors import DeniedError, InvalidError, MachineError, TransportError
from registry.history import Repository
from tests.forge import MANIFEST, Forge, write_built
from tests.repositories import git

if TYPE_CHECKING:
    from pathlib import Path

    from builder.request.assembled import Assembled


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge.make(tmp_path)


def built(forge: Forge) -> Assembled:
    forge.ask({"models/calm/model.yaml": MANIFEST})
    assembled = forge.assemble()
    write_built(assembled.root, "calm", {"tone": b"aaaa", "final": b"bbbb"})
    write_built(assembled.root, "bases", {"tiny": b"cccc"})
    return assembled


def publish(forge: Forge, assembled: Assembled, *more: str) -> tuple[int, str]:
    done = forge.call("publish", "--request", assembled.request, "--branch", "wish", *more)
    return done.returncode, done.stderr


def poison(root: Path, mark: Path) -> None:
    """Everything in a ``.git`` that makes git run a command."""
    inside = root / ".git"
    with (inside / "config").open("a") as stream:
        stream.write(
            f'[filter "x"]\n\tclean = "env > {mark}; cat"\n\tsmudge = "env > {mark}; cat"\n'
            f'[core]\n\tfsmonitor = "env > {mark}"\n\thooksPath = hooks\n\tsshCommand = "env > {mark}"\n'
        )
    (inside / "info/attributes").write_text("* filter=x\n")
    (inside / "hooks").mkdir(exist_ok=True)
    for name in ("post-checkout", "post-index-change", "reference-transaction"):
        (inside / "hooks" / name).write_text(f"#!/bin/sh\nenv > {mark}\n")
        (inside / "hooks" / name).chmod(0o755)
    os.utime(root / "models/calm/model.yaml")


@pytest.mark.parametrize("verb", ["publish", "gate", "plan"])
def test_git_in_the_tree_runs_nothing_for_who_comes_after(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The filter that the tree's own configuration names saw the token of the job that publishes."""
    assembled = built(forge)
    mark = tmp_path / "stolen"
    poison(assembled.root, mark)
    monkeypatch.setenv("GH_TOKEN", "secret")
    done = forge.call(verb, "--request", assembled.request, *(["--branch", "wish"] if verb == "publish" else []))
    assert done.returncode == (1 if verb == "gate" else 0), done.stderr
    assert not mark.exists(), mark.read_text()
    if verb != "publish":
        config = (assembled.root / ".git/config").read_text()
        assert "filter" not in config
        assert not (assembled.root / ".git/hooks").exists()


def test_the_configuration_of_the_tree_is_not_whom_bytes_are_sent_to(forge: Forge, tmp_path: Path) -> None:
    assembled = built(forge)
    for name in (".dvc/config", ".dvc/config.local"):
        (assembled.root / name).write_text(
            f"[core]\n    remote = quarantine\n['remote \"quarantine\"']\n    url = {tmp_path / 'evil'}\n"
        )
    assert publish(forge, assembled)[0] == 0
    assert not (tmp_path / "evil").exists()
    assert (tmp_path / "quarantine").exists()


@pytest.mark.parametrize("claim", ["commit", "main", "builds"])
def test_what_the_tree_says_of_itself_is_checked(forge: Forge, claim: str) -> None:
    """A commit of the stage's own, said to be the one that was built, or to be main's or a runner's."""
    assembled = built(forge)
    fake = git(forge.runner, "commit-tree", f"{assembled.request}^{{tree}}", "-p", assembled.request, "-m", "x").strip()
    path = assembled.root / STATE_FILE
    state = json.loads(path.read_text())
    state[claim] = [fake] if claim == "builds" else fake
    path.write_text(json.dumps(state))
    if claim == "commit":
        made = open_built(forge.repository, assembled.request)
        assert made.commit == assembled.commit
        assert not Repository(forge.runner).is_ancestor(assembled.request, made.commit)
        return
    with pytest.raises(InvalidError, match="neither main's nor a runner's"):
        open_built(forge.repository, assembled.request)


@pytest.mark.parametrize("path", ["models/calm/records/tone.json", "models/calm/dvc.lock", "models/calm"])
def test_a_link_left_in_the_tree_is_not_followed(forge: Forge, tmp_path: Path, path: str) -> None:
    assembled = built(forge)
    there = assembled.root / path
    there.rename(tmp_path / "away")
    there.symlink_to(tmp_path / "away")
    code, said = publish(forge, assembled)
    assert (code, "a link, or no plain file" in said) == (4, True), said


def test_a_pipe_left_in_the_tree_does_not_hang(forge: Forge) -> None:
    assembled = built(forge)
    path = assembled.root / "models/calm/dvc.lock"
    path.unlink()
    os.mkfifo(path)
    code, said = publish(forge, assembled)
    assert (code, "no plain file" in said) == (4, True), said


def test_a_pipeline_changed_in_the_tree_is_not_what_is_published(forge: Forge) -> None:
    assembled = built(forge)
    (assembled.root / "models/calm/dvc.yaml").write_text("stages:\n  a: {cmd: touch pwned}\n")
    (assembled.root / "models/calm/records/more.json").write_text("{}\n")
    assert publish(forge, assembled)[0] == 0
    forge.fetch()
    assert "pwned" not in git(forge.runner, "show", "origin/wish:models/calm/dvc.yaml")
    assert "more.json" not in git(forge.runner, "ls-tree", "-r", "--name-only", "origin/wish")


def test_a_tree_is_put_back_before_its_next_use(forge: Forge, tmp_path: Path) -> None:
    """Manifests, pipelines and what DVC would read are the commit's again; what was built stays."""
    assembled = built(forge)
    root = assembled.root
    (root / "models/calm/model.yaml").write_text("evil")
    (root / "params.yaml").unlink()
    (root / "data/talks.jsonl").unlink()
    (root / "data/talks.jsonl").symlink_to("/etc/passwd")
    (root / "models/calm/artifacts/final/dvc.yaml").write_text("stages: {a: {cmd: touch pwned}}\n")
    (root / "data/evil.dvc").write_text("cmd: touch pwned\n")
    (root / ".dvc/plugins").mkdir()
    (root / ".dvc/plugins/x.py").write_text("evil")
    (root / "deep").symlink_to(tmp_path)
    (root / ".varietal/runner.yaml").write_text("environment: [GH_TOKEN]\n")
    kept = {path: (root / path).read_bytes() for path in ("models/calm/dvc.lock", "models/calm/records/tone.json")}
    weights = (root / "models/calm/artifacts/final/model.safetensors").stat()
    again = forge.assemble()
    assert again.commit == assembled.commit
    assert (root / "models/calm/model.yaml").read_text() == MANIFEST
    assert (root / "params.yaml").is_file()
    assert not (root / "data/talks.jsonl").is_symlink()
    for path in (
        "models/calm/artifacts/final/dvc.yaml",
        "data/evil.dvc",
        ".dvc/plugins/x.py",
        "deep",
        ".varietal/runner.yaml",
    ):
        assert not os.path.lexists(root / path), path
    assert tmp_path.exists()
    assert {path: (root / path).read_bytes() for path in kept} == kept
    assert (root / "models/calm/artifacts/final/model.safetensors").stat().st_mtime_ns == weights.st_mtime_ns
    assert git(root, "status", "--porcelain", "--untracked-files=no") == ""


@pytest.mark.parametrize("text", ["", "{", '{"schema": "varietal/request/1"}', "[]"])
def test_a_state_that_cannot_be_read_is_made_anew(forge: Forge, text: str) -> None:
    assembled = built(forge)
    (assembled.root / STATE_FILE).write_text(text)
    (assembled.root / ".git/config").write_text("")  # as after a kill
    assert forge.assemble().commit == assembled.commit
    assert json.loads((assembled.root / STATE_FILE).read_text())["commit"] == assembled.commit
    assert "hooksPath" in (assembled.root / ".git/config").read_text()
    assert not list((assembled.root / ".varietal").glob(".request*"))


def test_where_the_key_of_a_runner_lies_is_not_told_to_the_tree(forge: Forge) -> None:
    """It is the build that signs notes; all other settings are the stages' too."""
    settings = forge.runner / ".varietal/runner.yaml"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("micro_batch: 4  # rows\nprogress_key: ../keys/gpu\nthreads: 2\n")
    given = built(forge).root / ".varietal/runner.yaml"
    assert "gpu" not in given.read_text()
    assert read_runner(given.parents[1]) == Runner(micro_batch=4, threads=2)
    settings.write_text("micro_batch: 4  # rows\n")
    forge.assemble()
    assert given.read_text() == settings.read_text()


def test_credentials_that_a_build_needs_not_stay_at_the_runner(forge: Forge) -> None:
    forge.ask({"data/x.jsonl": "{}\n"})
    (forge.runner / ".dvc/config.local").write_text(
        "['remote \"store\"']\n    password = reads\n['remote \"other\"']\n    password = writes\n"
    )
    before = os.umask(0o022)
    try:
        path = forge.assemble().root / ".dvc/config.local"
    finally:
        os.umask(before)
    assert "reads" in path.read_text()
    assert "writes" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("fatal: write error: No space left on device", MachineError),
        ("error: insufficient permission for adding an object to repository database", DeniedError),
        ("fatal: bad object", InvalidError),
    ],
)
def test_why_git_failed_is_told_by_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").write_text(f"#!/bin/sh\necho '{said}' >&2; exit 128\n")
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(kind):
        plumbing(tmp_path, "hash-object", "--stdin")


def test_a_fetch_that_fails_is_the_networks_fault(forge: Forge) -> None:
    with pytest.raises(TransportError):
        plumbing(forge.runner, "fetch", "--quiet", "../nowhere")


def test_a_repository_of_sha256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DEFAULT_HASH", "sha256")
    forge = Forge.make(tmp_path)
    assert len(git(forge.runner, "rev-parse", "HEAD").strip()) == 64
    assembled = built(forge)
    assert publish(forge, assembled)[0] == 0
    assert forge.assemble(assembled.request).builds
    git(forge.runner, "checkout", "--quiet", "-b", "mine")
    write_built(forge.runner, "support", {"tone": b"one", "final": b"two"})
    assert forge.call("publish").returncode == 0
    (forge.runner / "models/support/records/final.json").unlink()
    write_built(forge.runner, "support", {"tone": b"one"})
    done = forge.call("publish")
    assert done.returncode == 0, done.stderr
    assert git(forge.runner, "status", "--porcelain") == ""
