"""Tags on commits that nobody reviewed: what is not on the main branch is neither promoted nor described.

The remote that descriptors go to is the main branch's, whatever the commit or the checkout says.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from builder.cli import app
from registry.errors import InvalidError, NotFoundError, RefusedError
from registry.main_settings import main_settings
from registry.mainline import off_main
from registry.published import Published
from registry.refs import Channel, Version
from registry.releases import promote
from registry.resolve import resolve
from registry.tag_message import Promise, release_message
from tests.keys import make_key
from tests.repositories import Team, git

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD, EVIL = Version("support", "v1.0.0"), Version("support", "v9.0.0")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A repository with v1.0.0 on main and v9.0.0 on a branch that names a remote of its own; a key that signs."""

    team: Team
    remote: Path
    evil: Path
    key: Path


def config(url: str) -> str:
    return f"[core]\n    analytics = false\n    remote = storage\n['remote \"storage\"']\n    url = {url}\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("off-main")
    make_key(place, "key")
    team = Team.make(place / "team")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=team.root, check=True, capture_output=True)
    (team.root / ".dvc" / "config").write_text(config("../../remote"))
    release(team, GOOD)
    git(team.root, "checkout", "--quiet", "-b", "evil")
    (team.root / ".dvc" / "config").write_text(config("../../evil"))
    release(team, EVIL)
    for name in ("remote", "evil"):
        shutil.copytree(team.root / ".dvc" / "cache", place / name)
    return place


def release(team: Team, ref: Version) -> None:
    record = team.build("support:final", {"a": str(ref).encode()})
    team.commit(f"Build {ref}")
    team.repository.create_tag(str(ref), "HEAD", release_message(ref, Promise.of(record)))


@pytest.fixture
def scene(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A copy, with the branch checked out: as a runner checks out the commit of a tag."""
    place = shutil.copytree(made, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(place / "team")
    monkeypatch.setenv("VARIETAL_STORE", str(tmp_path / "store"))
    return Scene(team=Team(place / "team"), remote=place / "remote", evil=place / "evil", key=place / "key")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        capsys.readouterr()
        app(arguments, standalone_mode=False)
        return capsys.readouterr().out

    return run


def reason(scene: Scene) -> str:
    commit = git(scene.team.root, "rev-parse", f"{EVIL}^{{commit}}").strip()
    return f"commit {commit[:12]} is not on the main branch, refs/heads/main"


def written(scene: Scene) -> list[str]:
    """Descriptors on either remote."""
    return [
        f"{folder.name}: {path.name}"
        for folder in (scene.remote, scene.evil)
        for path in sorted((folder / "varietal").rglob("*.json"))
    ]


def test_a_release_off_main_is_not_promoted(scene: Scene, call: Callable[..., str]) -> None:
    with pytest.raises(RefusedError) as caught:
        call("promote", str(EVIL), "prod")
    assert caught.value.what == f"support#prod is not moved: {reason(scene)}"
    assert git(scene.team.root, "tag", "--list", "support#*") == ""


def test_a_release_off_main_is_not_described(scene: Scene, call: Callable[..., str]) -> None:
    with pytest.raises(RefusedError) as caught:
        call("describe", str(EVIL), "--key", str(scene.key))
    assert caught.value.what == f"support@v9.0.0 is not described: {reason(scene)}"
    assert written(scene) == []


def test_a_channel_that_was_put_on_it_is_not_described(scene: Scene, call: Callable[..., str]) -> None:
    """The channel is open, and the tag was made by git alone."""
    tag = promote(EVIL, "prod", Published.read(scene.team.repository.tags(messages=True)))
    scene.team.repository.create_tag(tag.name, tag.commit, tag.message)
    with pytest.raises(RefusedError):
        call("describe", "support#prod", "--key", str(scene.key))
    assert written(scene) == []


def test_nor_is_a_channel_rolled_back_to_it(scene: Scene, call: Callable[..., str]) -> None:
    for ref in (EVIL, GOOD):
        tag = promote(ref, "prod", Published.read(scene.team.repository.tags(messages=True)))
        scene.team.repository.create_tag(tag.name, tag.commit, tag.message)
    with pytest.raises(RefusedError):
        call("rollback", "support#prod")


def test_a_proof_says_so(scene: Scene, call: Callable[..., str]) -> None:
    answer = json.loads(call("verify", str(EVIL), "--json"))
    assert answer["on_main"] is False
    assert answer["steps"][0].endswith(f"; {reason(scene)}")
    assert answer["warnings"] == [f"support@v9.0.0: {reason(scene)}"]
    answer = json.loads(call("verify", str(GOOD), "--json"))
    assert (answer["on_main"], answer["warnings"]) == (True, [])
    assert answer["steps"][0].endswith("; it is on the main branch")
    assert json.loads(call("verify", "support:final", "--json"))["on_main"] is None


def test_who_pulls_by_a_channel_is_told(scene: Scene) -> None:
    tag = promote(EVIL, "prod", Published.read(scene.team.repository.tags(messages=True)))
    scene.team.repository.create_tag(tag.name, tag.commit, tag.message)
    assert resolve(scene.team.repository, Channel("support", "prod")).warnings == (f"support@v9.0.0: {reason(scene)}",)


def test_the_origin_says_what_main_is(scene: Scene) -> None:
    """A branch here that is called main, and has more than the origin's, makes nothing right."""
    root = scene.team.root
    git(root, "init", "--quiet", "--bare", "--initial-branch=main", "../origin.git")
    git(root, "remote", "add", "origin", "../origin.git")
    git(root, "push", "--quiet", "origin", "main")
    git(root, "branch", "--force", "main", "evil")
    assert "is not on the main branch, refs/remotes/origin/main" in off_main(scene.team.repository, "evil")


def test_where_history_is_cut_off_or_no_main_is_known(scene: Scene) -> None:
    root = scene.team.root
    git(root, "clone", "--quiet", "--depth=1", "--branch=main", f"file://{root}", "../shallow")
    shallow = Team(root.parent / "shallow")
    git(shallow.root, "fetch", "--quiet", "--depth=1", "origin", "evil")
    assert off_main(shallow.repository, "FETCH_HEAD").startswith(
        "history is cut off here, so it cannot be told whether"
    )
    git(root, "branch", "--delete", "--force", "main")
    assert off_main(scene.team.repository, "evil") == "no main branch is known here"


# Where descriptors go


def test_descriptors_go_where_main_says(scene: Scene, call: Callable[..., str]) -> None:
    """The hostile branch is checked out; its remote gets nothing. Paths are taken from .dvc, wherever one stands."""
    call("describe", str(GOOD), "--key", str(scene.key))
    assert written(scene) == ["remote: v1.0.0.json"]


def test_what_main_says_today_counts_for_an_old_release(scene: Scene, call: Callable[..., str]) -> None:
    root = scene.team.root
    git(root, "checkout", "--quiet", "main")
    (root / ".dvc" / "config").write_text(config("../../moved"))
    scene.team.commit("Another remote")
    moved = scene.remote.rename(scene.remote.with_name("moved"))
    git(root, "checkout", "--quiet", "--detach", str(GOOD))
    call("describe", str(GOOD), "--key", str(scene.key))
    assert (moved / "varietal/support/releases/v1.0.0.json").is_file()


def test_what_this_machine_adds_is_kept(scene: Scene) -> None:
    home = scene.team.root / ".dvc"
    (home / "config.local").write_text('[core]\n    remote = shelf\n[\'remote "shelf"\']\n    url = "../../shelf"\n')
    with main_settings(scene.team.repository) as root:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "config", "--list"], cwd=root, capture_output=True, text=True, check=True
        )
    place = scene.remote.parent
    assert set(done.stdout.split()) >= {
        "core.remote=shelf",
        f"remote.shelf.url={place / 'shelf'}",
        f"remote.storage.url={place / 'remote'}",
    }


def test_settings_that_main_does_not_have(scene: Scene, call: Callable[..., str]) -> None:
    with pytest.raises(NotFoundError) as caught:
        call("describe", str(GOOD), "--key", str(scene.key), "--remote", "elsewhere")
    assert caught.value.where == ".dvc/config of the main branch"
    git(scene.team.root, "checkout", "--quiet", "main")
    (scene.team.root / ".dvc" / "config").write_text("[core\n")
    scene.team.commit("Break it")
    with pytest.raises(InvalidError, match="not a configuration file of DVC"):
        call("describe", str(GOOD), "--key", str(scene.key))
