"""A fork's hostile request with one honest wish in it, on plain git: built, published, merged, promoted, released."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.request.assemble import assemble
from builder.request.assembled import request_folder
from registry.history import Repository
from tests.team import Team

if TYPE_CHECKING:
    from pathlib import Path

WISH = """\
schema: 1
base: tiny
adapters: {tone: {variant: support, stage: tone}}
stages:
  half: {kind: fold, from: base, adapters: {tone: 0.5}}
  same: {kind: fold, from: base, adapters: {tone: 1.0}}
release: half
checks: []
"""
EVIL = "stages:\n  a: {cmd: touch ../pwned}\n"


def objects(place: Path) -> set[str]:
    return {path.parent.name + path.name for path in place.rglob("*") if path.is_file()} if place.exists() else set()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hostile_request_gets_its_honest_wish_and_no_more(built: Team, tmp_path: Path) -> None:
    seed = built.copy(tmp_path / "seed")
    seed.must("dvc", "remote", "add", "--quiet", "quarantine", str(tmp_path / "quarantine"))
    seed.must("dvc", "remote", "modify", "--quiet", "store", "url", str(tmp_path / "store"))
    seed.commit("Add a quarantine")
    seed.must("dvc", "push", "--quiet")
    seed.must("git", "clone", "--quiet", "--bare", str(seed.root), str(tmp_path / "origin.git"))
    for name in ("runner", "author", "second"):
        seed.must("git", "clone", "--quiet", str(tmp_path / "origin.git"), str(tmp_path / name))
    runner, author, second = (Team(root=tmp_path / name) for name in ("runner", "author", "second"))

    author.must("git", "checkout", "--quiet", "-b", "wish")
    hostile = {
        "models/calm/model.yaml": WISH,
        "dvc.yaml": EVIL,
        "data/dvc.yaml": EVIL,
        "models/support/dvc.yaml": EVIL,
        ".dvc/config": f"[core]\n    remote = evil\n['remote \"evil\"']\n    url = {tmp_path / 'evil'}\n",
        ".gitattributes": "* filter=evil\n",
        "params.yaml": (author.root / "params.yaml").read_text().replace("fold: 1", "fold: 7"),
    }
    for path, text in hostile.items():
        (author.root / path).parent.mkdir(parents=True, exist_ok=True)
        (author.root / path).write_text(text)
    author.commit("Wish")
    author.must("git", "push", "--quiet", "origin", "wish")

    def at(team: Team, request: str) -> Team:
        team.must("git", "fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*")
        repository = Repository(team.root)
        folder = request_folder(team.root, repository.resolve(request))
        return Team(root=assemble(repository, request, folder, main="origin/main").root)

    # Built by main's tool, in a tree of its own: only what is new runs, and what is known is linked.
    tree = at(runner, "origin/wish")
    tree.must("dvc", "repro", "--pull", "--allow-missing")
    assert tree.record("same", "calm").reused_from == "support:toned"
    assert tree.record("half", "calm").reused_from == ""
    assert not list(tmp_path.rglob("pwned"))
    before = objects(tmp_path / "store")
    answer = runner.must("varietal", "publish", "--request", "origin/wish", "--json")
    assert json.loads(answer.out)["homes"] == ["models/calm"]
    assert objects(tmp_path / "store") == before
    assert objects(tmp_path / "quarantine")
    assert not (tmp_path / "evil").exists()

    # Another runner, which has nothing, finds that nothing is to do. The gate says what a reviewer has to look at.
    tree = at(second, "origin/wish")
    assert tree.must("dvc", "repro", "--pull", "--allow-missing").ran == []
    gate = second.must("varietal", "gate", "--request", "origin/wish", "--json")
    request = json.loads(gate.out)["request"]
    assert {".dvc/config", ".gitattributes", "data/dvc.yaml", "params.yaml: recipes"} <= set(request["left"])
    assert request["unwritten"] == []
    assert [one["variant"] for one in json.loads(gate.out)["variants"]] == ["calm"]
    shown = runner.must("git", "show", "origin/wish:dvc.yaml", "origin/wish:models/support/dvc.yaml").out
    assert "pwned" not in shown

    # Its reviewer takes the model in, and leaves the rest out; then bytes are promoted, and a release is made.
    main = Team(root=tmp_path / "author")
    main.must("git", "checkout", "--quiet", "main")
    main.must("git", "fetch", "--quiet", "origin")
    main.must("git", "checkout", "--quiet", "origin/wish", "--", "models/calm")
    main.commit("Take the wish")
    main.must("git", "push", "--quiet", "origin", "main")
    second.must("git", "pull", "--quiet")
    promoted = json.loads(second.must("varietal", "publish", "--promote", "--json").out)
    assert promoted["stages"] == ["calm:half", "calm:same"]  # the second has bytes that are there, and its own record
    second.must("varietal", "release", "calm@v1.0.0")
    second.must("varietal", "pull", "calm@v1.0.0", "../pulled")
