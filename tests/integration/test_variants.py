"""The later life of a variant, with real git and real `dvc repro`: renamed, deprecated, removed, its history kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from builder import kinds
from builder.cli import app
from builder.start.removal import remove
from registry.errors import RefusedError
from registry.history import Repository
from tests.keys import make_key, public_line
from tests.team import Team

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeModel

SUPPORT = """\
schema: 1
description: The first.  # by hand
base: tiny
data:
  talk: {path: models/support/talk.jsonl, format: text}
stages:
  final: {kind: cast, from: base, dtype: float32}
release: final
checks: []
"""
SHOP = """\
schema: 1
# made from the first
base: {variant: support, stage: final}   # as it is in the tree
stages:
  final: {kind: cast, from: base, dtype: bfloat16}
release: final
checks: []
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel) -> Team:
    """Two variants, one made from the other, built and released; origin and remote are folders beside."""
    place = tmp_path_factory.mktemp("released")
    root = place / "team"
    shutil.copytree(make_model("llama", dtype="bfloat16", tied=True), root / "sources/tiny")
    team = Team(root=root)
    team.must("varietal", "init", ".", "--base", "tiny=sources/tiny")
    for name, text in {"support": SUPPORT, "shop": SHOP}.items():
        (root / "models" / name).mkdir()
        (root / "models" / name / "model.yaml").write_text(text)
    (root / "models/support/talk.jsonl").write_text('{"text": "a"}\n')
    team.must("varietal", "compile")
    team.commit("Declare")
    team.must("git", "init", "--quiet", "--bare", "--initial-branch=main", str(place / "origin.git"))
    team.must("git", "remote", "add", "origin", str(place / "origin.git"))
    team.must("dvc", "repro", "--quiet")
    team.commit("Build")
    team.must("git", "push", "--quiet", "origin", "main")
    team.must("dvc", "push", "--quiet")
    team.must("varietal", "release", "support@v1.0.0")
    team.must("varietal", "promote", "support@v1.0.0", "prod")
    return team


@pytest.fixture
def team(released: Team, tmp_path: Path) -> Team:
    """A copy to change; the remote beside it is copied too."""
    shutil.copytree(released.root.parent / "team-remote", tmp_path / "team-remote")
    return released.copy(tmp_path / "team")


def test_a_renamed_variant_is_linked_and_its_releases_stay(team: Team, tmp_path: Path) -> None:
    before = {name: team.record("final", name).artifact for name in ("support", "shop")}
    answer = json.loads(team.must("varietal", "rename", "support", "helper", "--json").out)
    assert answer == {
        "old": "support",
        "new": "helper",
        "edited": ["models/helper/model.yaml", "models/shop/model.yaml"],
        "compiled": ["models/helper/dvc.yaml", "models/shop/dvc.yaml"],
    }
    assert (team.root / "models/shop/model.yaml").read_text() == SHOP.replace("support", "helper")
    assert (team.root / "models/helper/model.yaml").read_text() == SUPPORT.replace(
        "models/support/", "models/helper/"
    ).replace("by hand\n", "by hand\nformerly: [support]\n")
    assert not (team.root / "models/support").exists()
    team.must("varietal", "lint")
    team.must("varietal", "compile", "--check")

    ran = team.must("dvc", "repro")
    assert ran.ran == ["final", "records", "final", "records"]
    for old, new in {"support": "helper", "shop": "shop"}.items():
        record = team.record("final", new)
        assert record.reused_from == f"{old}:final"  # linked, not computed
        assert record.artifact == before[old]
    team.commit("Rename")
    assert team.must("dvc", "repro").ran == []
    team.must("varietal", "gate", "helper")

    team.must("varietal", "pull", "support#prod", str(tmp_path / "pulled"))
    log = team.must("varietal", "log", "helper").out
    assert "support@v1.0.0" in log
    assert "support#prod#1 -> v1.0.0" in log
    assert "  Declare\n" in log
    events = json.loads(team.must("varietal", "log", "helper", "--json").out)
    assert [one["variant"] for one in events if one["event"] == "release"] == ["support"]
    rows = {one["variant"]: one for one in json.loads(team.must("varietal", "list", "--json").out)}
    assert (rows["support"]["declared"], rows["helper"]["declared"]) == (False, True)


def test_what_stands_in_the_way_of_a_rename(team: Team) -> None:
    manifest = team.root / "models/support/model.yaml"
    assert team.call("varietal", "rename", "suport", "helper").code == 2
    assert team.call("varietal", "rename", "support", "shop").code == 5
    assert team.call("varietal", "rename", "support", "Helper").code == 4
    again = team.call("varietal", "rename", "shop", "support")
    assert (again.code, again.err.splitlines()[0]) == (
        5,
        "support@v1.0.0 was released of another variant of that name",
    )
    manifest.write_text(SUPPORT + "# not committed\n")
    dirty = team.call("varietal", "rename", "support", "helper")
    assert (dirty.code, dirty.err.splitlines()[0]) == (1, "not committed: models/support/model.yaml")
    # One manifest that cannot be edited in the text stops all of it before anything is moved.
    manifest.write_text(SUPPORT)
    aliased = SHOP.replace("schema: 1\n", "schema: 1\nlicense: &name support\n").replace(
        "variant: support,", "variant: *name,"
    )
    (team.root / "models/shop/model.yaml").write_text(aliased)
    odd = team.call("varietal", "rename", "support", "helper")
    assert (odd.code, odd.err.splitlines()[1]) == (4, "  where: models/shop/model.yaml")
    assert manifest.read_text() == SUPPORT
    assert team.must("git", "status", "--porcelain").out == " M models/shop/model.yaml\n"


def test_a_deprecated_variant_is_told_of_wherever_it_is_met(team: Team, tmp_path: Path) -> None:
    assert team.call("varietal", "deprecate", "support").code == 4
    assert team.call("varietal", "deprecate", "support", "--in-favour-of", "none").code == 2
    said = "slow: and large; use shop"
    answer = team.must(
        "varietal", "deprecate", "support", "--reason", "slow: and  large", "--in-favour-of", "shop", "--json"
    )
    assert json.loads(answer.out) == {"variant": "support", "deprecated": said}
    text = (team.root / "models/support/model.yaml").read_text()
    assert text == SUPPORT.replace("by hand\n", f'by hand\ndeprecated: "{said}"\n')
    team.must("varietal", "lint")
    assert team.must("dvc", "status").out.strip() == "Data and pipelines are up to date."
    assert f"support  v1.0.0  prod v1.0.0  deprecated: {said}\n" in team.must("varietal", "list").out
    assert f"deprecated  {said}" in team.must("varietal", "show", "support:final").out
    assert json.loads(team.must("varietal", "show", "support@v1.0.0", "--json").out)["deprecated"] == said

    pulled = team.must("varietal", "pull", "support@v1.0.0", str(tmp_path / "one"), "--json")
    assert f"support is deprecated: {said}\n" in pulled.err
    assert json.loads(pulled.out)["deprecated"] == said
    team.must("varietal", "deprecate", "support", "--undo")
    assert (team.root / "models/support/model.yaml").read_text() == SUPPORT
    assert team.call("varietal", "deprecate", "support", "--undo").code == 2


def test_a_channel_that_no_promoter_moved_keeps_no_variant(team: Team, tmp_path: Path) -> None:
    """Whoever can push a tag could else hold a variant in the tree."""
    team.must("varietal", "remove", "shop")
    team.commit("Remove shop")
    key = public_line(make_key(tmp_path, "ada"))
    params = team.root / "params.yaml"
    params.write_text(f"{params.read_text()}channels: {{prod: {{promoters: {{ada: {key}}}}}}}\n")
    team.commit("Protect prod")
    team.must("git", "push", "--quiet", "origin", "HEAD:main")
    team.must("git", "fetch", "--quiet", "origin")
    done = remove(Repository(team.root), "support", force=False)
    assert done.channels == {}


def test_a_removed_variant_can_be_pulled_still(team: Team, tmp_path: Path) -> None:
    used = team.call("varietal", "remove", "support")
    assert used.code == 5
    assert used.err.splitlines()[0] == "support is used: models/shop/model.yaml: base.variant: support"
    team.must("varietal", "remove", "shop")
    assert not (team.root / "models/shop").exists()
    team.commit("Remove the shop")
    channel = team.call("varietal", "remove", "support")
    assert (channel.code, channel.err.splitlines()[0]) == (1, "support#prod points at v1.0.0")
    (team.root / "models/support/notes.txt").write_text("mine")
    assert team.call("varietal", "remove", "support", "--force").code == 1
    (team.root / "models/support/notes.txt").unlink()
    answer = json.loads(team.must("varietal", "remove", "support", "--force", "--json").out)
    assert answer == {"variant": "support", "releases": ["support@v1.0.0"], "channels": {"prod": "v1.0.0"}}
    assert not (team.root / "models/support").exists()
    team.commit("Remove the support")
    team.must("varietal", "lint")
    assert team.must("dvc", "repro").ran == []
    shutil.rmtree(team.root / ".dvc/cache")
    team.must("varietal", "pull", "support@v1.0.0", str(tmp_path / "one"))
    team.must("varietal", "verify", "support#prod", str(tmp_path / "one"))
    assert "Remove the support" in team.must("varietal", "log", "support").out
    assert "no longer declared here" in team.must("varietal", "list").out


@pytest.mark.slow
def test_a_copy_links_what_the_other_built(team: Team) -> None:
    team.must("varietal", "new", "twin", "--from", "support")
    team.must("varietal", "compile")
    assert team.must("dvc", "repro", "models/twin/dvc.yaml").ran == ["final", "records"]
    assert team.record("final", "twin").reused_from == "support:final"
    assert team.call("varietal", "new", "third", "--from", "support", "--base", "tiny").code == 4


def test_a_newer_tool_changes_nothing_until_it_is_told_to(
    team: Team, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(kinds.KINDS, "cast", replace(kinds.KINDS["cast"], recipe=2))  # type: ignore[arg-type]
    monkeypatch.chdir(team.root)
    monkeypatch.setenv("VARIETAL_STORE", str(team.root.parent / "store"))

    def ask(*arguments: str) -> tuple[str, str]:
        capsys.readouterr()
        app(arguments, standalone_mode=False)
        return capsys.readouterr()

    told = ask("lint")
    assert told[0] == "2 variants, 2 stages: no fault\n".replace("2 stages", "3 stages")
    assert told[1].startswith(
        "recipe 1 of cast is pinned, this tool has 2: `varietal upgrade cast`; what was built stays"
    )
    assert json.loads(ask("plan", "--json")[0])["certain"]["duration_s"] is None  # nothing to do, as before
    with pytest.raises(RefusedError) as caught:
        ask("upgrade", "--check")
    assert caught.value.what == "1 recipe is older than this tool's"

    before = (team.root / "params.yaml").read_text()
    answer = json.loads(ask("upgrade", "--dry-run", "--json")[0])
    assert [(one["stage"], one["verdict"]) for one in answer["stages"]] == [
        ("support:final", "run"),
        ("shop:final", "run"),
    ]
    assert answer["raised"] == [{"kind": "cast", "pinned": 1, "tool": 2}]
    assert answer["certain"]["duration_s"] > 0
    assert (answer["written"], (team.root / "params.yaml").read_text()) == (False, before)

    ask("upgrade")
    assert (team.root / "params.yaml").read_text() == before.replace("cast: 1", "cast: 2")
    planned = {one["stage"]: one["verdict"] for one in json.loads(ask("plan", "--json")[0])["stages"]}
    assert planned == {"bases:tiny": "keep", "support:final": "run", "shop:final": "run"}
    assert ask("upgrade", "--check")[0] == "every recipe is this tool's: nothing to do\n"
    # The tool of before sees at once that it is too old.
    monkeypatch.undo()
    old = team.call("varietal", "lint")
    lines = (team.root / "params.yaml").read_text().splitlines()
    place = f"params.yaml:{lines.index('  cast: 2') + 1}"
    assert (old.code, old.err.splitlines()[0]) == (4, f"{place}: recipes.cast: revision 2, this tool has 1")
