"""Our tags as GTO reads them, and GTO's tags as we read them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from registry.published import Published
from registry.refs import Channel, Version
from registry.releases import promote, rollback
from registry.tag_message import Promise, release_message
from tests.repositories import Team

GTO = str(Path(sys.executable).with_name("gto"))


def gto(root: Path, *arguments: str) -> str:
    done = subprocess.run([GTO, *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def release(team: Team, version: str) -> None:
    record = team.build("support:final", {"a": version.encode()})
    team.commit(version)
    ref = Version("support", version)
    team.repository.create_tag(str(ref), "HEAD", release_message(ref, Promise.of(record)))


def published(team: Team) -> Published:
    return Published.read(team.repository.tags(messages=True))


def test_gto_shows_what_we_tagged(tmp_path: Path) -> None:
    team = Team.make(tmp_path / "team")
    release(team, "v1.0.0")
    release(team, "v1.1.0")
    for make in (
        lambda: promote(Version("support", "v1.0.0"), "prod", published(team)),
        lambda: promote(Version("support", "v1.1.0"), "staging", published(team)),
        lambda: promote(Version("support", "v1.1.0"), "prod", published(team)),
        lambda: rollback(Channel("support", "prod"), published(team)),
    ):
        tag = make()
        team.repository.create_tag(tag.name, tag.commit, tag.message)
    shown = json.loads(gto(team.root, "show", "--json"))
    assert shown["support"]["version"] == "v1.1.0"
    assert shown["support"]["stage"] == {"prod": "v1.0.0", "staging": "v1.1.0"}
    assert published(team).channels("support") == {"prod": "v1.0.0", "staging": "v1.1.0"}


def test_we_read_what_gto_tagged_and_number_on(tmp_path: Path) -> None:
    team = Team.make(tmp_path / "team")
    release(team, "v1.0.0")
    team.commit("More")
    gto(team.root, "register", "support", "--version", "v2.0.0")
    gto(team.root, "assign", "support", "--version", "v2.0.0", "--stage", "prod")
    found = published(team)
    assert [one.version for one in found.releases["support"]] == ["v1.0.0", "v2.0.0"]
    assert found.channels("support") == {"prod": "v2.0.0"}
    assert promote(Version("support", "v1.0.0"), "prod", found).name == "support#prod#2"
