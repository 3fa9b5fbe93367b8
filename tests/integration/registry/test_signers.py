"""Protected channels in real git with real SSH keys: who moves one, and what is stepped over when it is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from builder.cli import app
from registry.errors import ConflictError, DeniedError, InvalidError, NotFoundError
from registry.mirror import mirror
from registry.published import Published
from registry.refs import Channel, Version
from registry.releases import promote, rollback
from registry.resolve import resolve
from registry.signers import create_assignment, read_published
from registry.tag_message import Promise, release_message
from tests.keys import make_key, public_line, sign_as
from tests.repositories import Team, git

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROD = Channel("support", "prod")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder, name) for name in ("ada", "grace", "eve")}


@pytest.fixture(scope="module")
def guarded(keys: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Releases v1.0.0 and v1.1.0; prod is protected by the keys of ada and grace; read only."""
    team = Team.make(tmp_path_factory.mktemp("guarded") / "team")
    write_rule(team, keys["ada"], keys["grace"])
    for version in ("v1.0.0", "v1.1.0"):
        record = team.build("support:final", {"a": version.encode()})
        team.commit(f"Build {version}")
        ref = Version("support", version)
        team.repository.create_tag(str(ref), "HEAD", release_message(ref, Promise.of(record)))
    return team.root


@pytest.fixture
def team(guarded: Path, tmp_path: Path) -> Team:
    return Team(shutil.copytree(guarded, tmp_path / "team"))


def write_rule(team: Team, *keys: Path) -> None:
    promoters = "".join(f"      {key.name}: {public_line(key)}\n" for key in keys)
    (team.root / "params.yaml").write_text(f"bases: {{}}\nchannels:\n  prod:\n    promoters:\n{promoters}")


def move(team: Team, version: str, key: Path | None) -> str:
    """Promote as the command does."""
    sign_as(team.root, key)
    tag = promote(Version("support", version), "prod", read_published(team.repository, "support"))
    create_assignment(team.repository, tag, "prod")
    return tag.name


def force(team: Team, version: str, key: Path | None, name: str = "") -> None:
    """Make the tag of an assignment as somebody would who does not use the command."""
    sign_as(team.root, key)
    tag = promote(Version("support", version), "prod", Published.read(team.repository.tags(messages=True)))
    team.repository.create_tag(name or tag.name, tag.commit, tag.message)


def points_at(team: Team) -> str:
    return read_published(team.repository, "support").channel(PROD).version


def warnings(team: Team) -> tuple[str, ...]:
    return read_published(team.repository, "support").refused(PROD)


def test_a_promoter_moves_the_channel(team: Team, keys: dict[str, Path]) -> None:
    assert move(team, "v1.0.0", keys["ada"]) == "support#prod#1"
    assert move(team, "v1.1.0", keys["grace"]) == "support#prod#2"
    assert points_at(team) == "v1.1.0"
    assert warnings(team) == ()


def test_a_promoter_signs_even_where_git_signs_no_tags(team: Team, keys: dict[str, Path]) -> None:
    sign_as(team.root, keys["ada"])
    git(team.root, "config", "tag.gpgSign", "false")
    tag = promote(Version("support", "v1.0.0"), "prod", read_published(team.repository, "support"))
    create_assignment(team.repository, tag, "prod")
    assert points_at(team) == "v1.0.0"


def test_whoever_is_no_promoter_is_refused_before_anything_is_pushed(team: Team, keys: dict[str, Path]) -> None:
    with pytest.raises(DeniedError) as caught:
        move(team, "v1.0.0", keys["eve"])
    assert caught.value.what == "the key that git signs with may not move prod: ada, grace may"
    assert caught.value.where == "channels.prod.promoters of params.yaml on the main branch"
    assert git(team.root, "tag", "--list", "support#*") == ""


def test_git_is_not_set_up_to_sign_with_ssh(team: Team) -> None:
    with pytest.raises(DeniedError) as caught:
        move(team, "v1.0.0", None)
    assert caught.value.what == "prod is protected: ada, grace may move it, by tags signed with SSH keys"
    assert git(team.root, "tag", "--list", "support#*") == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "its tag is not signed, and the channel is protected"),
        ("eve", "none of the promoters signed it: ada, grace"),
    ],
)
def test_a_tag_of_somebody_else_is_stepped_over_and_named(
    team: Team, keys: dict[str, Path], name: str, reason: str
) -> None:
    move(team, "v1.0.0", keys["ada"])
    force(team, "v1.1.0", keys.get(name))
    assert points_at(team) == "v1.0.0"
    assert warnings(team) == (f"support#prod#2 does not count: {reason}",)
    found = resolve(team.repository, PROD)
    assert (found.version, found.warnings) == ("v1.0.0", warnings(team))
    assert read_published(team.repository).warnings() == warnings(team)


def test_an_open_channel_needs_no_signature(team: Team) -> None:
    sign_as(team.root, None)
    published = read_published(team.repository, "support")
    create_assignment(team.repository, promote(Version("support", "v1.0.0"), "staging", published), "staging")
    assert read_published(team.repository).channels("support") == {"staging": "v1.0.0"}


def test_an_old_signed_tag_under_a_new_name_is_no_new_assignment(team: Team, keys: dict[str, Path]) -> None:
    move(team, "v1.0.0", keys["ada"])
    move(team, "v1.1.0", keys["ada"])
    old = git(team.root, "rev-parse", "refs/tags/support#prod#1").strip()
    git(team.root, "update-ref", "refs/tags/support#prod#9", old)
    assert points_at(team) == "v1.1.0"
    assert warnings(team) == ("support#prod#9 does not count: none of the promoters signed it: ada, grace",)
    assert move(team, "v1.0.0", keys["ada"]) == "support#prod#10"
    assert points_at(team) == "v1.0.0"


def test_a_signature_over_something_else_than_a_tag(team: Team, keys: dict[str, Path], tmp_path: Path) -> None:
    """The same key, another namespace: what it signed as a file is no signature of a tag."""
    force(team, "v1.0.0", None)
    whole = subprocess.run(
        ["git", "cat-file", "tag", "support#prod#1"], cwd=team.root, capture_output=True, check=True
    ).stdout
    (tmp_path / "tag").write_bytes(whole)
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", str(keys["ada"]), str(tmp_path / "tag")]
    subprocess.run(command, check=True, capture_output=True)
    forged = whole + (tmp_path / "tag.sig").read_bytes()
    store = ["git", "hash-object", "-t", "tag", "-w", "--stdin"]
    made = subprocess.run(store, cwd=team.root, input=forged, capture_output=True, check=True)
    git(team.root, "update-ref", "refs/tags/support#prod#1", made.stdout.decode().strip())
    assert warnings(team) == ("support#prod#1 does not count: none of the promoters signed it: ada, grace",)


def test_a_key_that_was_taken_out_of_the_rule_moves_nothing_any_more(team: Team, keys: dict[str, Path]) -> None:
    move(team, "v1.0.0", keys["grace"])
    move(team, "v1.1.0", keys["ada"])
    write_rule(team, keys["grace"])
    assert points_at(team) == "v1.1.0", "the work tree does not decide"
    team.commit("Ada leaves")
    assert points_at(team) == "v1.0.0"
    assert move(team, "v1.1.0", keys["grace"]) == "support#prod#3"


def test_the_rule_is_that_of_the_main_branch(team: Team, keys: dict[str, Path]) -> None:
    move(team, "v1.0.0", keys["ada"])
    git(team.root, "checkout", "--quiet", "-b", "request")
    write_rule(team, keys["eve"])
    team.commit("Let eve promote")
    force(team, "v1.1.0", keys["eve"])
    assert points_at(team) == "v1.0.0"
    with pytest.raises(DeniedError, match="may not move prod: ada, grace may"):
        move(team, "v1.1.0", keys["eve"])


def test_where_no_main_branch_is_known_nothing_is_guessed(team: Team, keys: dict[str, Path]) -> None:
    move(team, "v1.0.0", keys["ada"])
    git(team.root, "checkout", "--quiet", "--detach")
    git(team.root, "branch", "--delete", "--force", "main")
    with pytest.raises(NotFoundError) as caught:
        points_at(team)
    assert caught.value.what == "no main branch is known here"


def test_a_rule_that_cannot_be_read_lets_nobody_in(team: Team, keys: dict[str, Path]) -> None:
    move(team, "v1.0.0", keys["ada"])
    (team.root / "params.yaml").write_text("bases: {}\nchannels: {prod: {promotors: {}}}\n")
    team.commit("Misspell")
    with pytest.raises(InvalidError) as caught:
        points_at(team)
    assert caught.value.what == "promotors: expected a key of this schema, got an unknown key"
    assert "the main branch: channels: prod" in caught.value.where


def test_a_signed_assignment_of_a_release_whose_tag_was_replaced(team: Team, keys: dict[str, Path]) -> None:
    """A release tag on the same commit that promises another artifact of it."""
    team.build("support:tone", {"a": b"tone"})
    other = team.build("support:final", {"a": b"v1.1.0"})
    team.commit("Build both")
    ref = Version("support", "v2.0.0")
    team.repository.create_tag(str(ref), "HEAD", release_message(ref, Promise.of(other)))
    move(team, "v2.0.0", keys["ada"])
    git(team.root, "tag", "--delete", str(ref))
    tone = team.repository.read("HEAD", "models/support/records/tone.json")
    from registry.record import Record  # noqa: PLC0415 - of this test alone

    sign_as(team.root, None)
    promise = Promise.of(Record.from_bytes(tone, where="tone"))
    team.repository.create_tag(str(ref), "HEAD", release_message(ref, promise))
    with pytest.raises(ConflictError) as caught:
        points_at(team)
    assert caught.value.what == "support#prod#1 means other bytes than support@v2.0.0"


def test_numbers_that_somebody_used_up_hinder_no_promoter(team: Team, keys: dict[str, Path]) -> None:
    move(team, "v1.0.0", keys["ada"])
    force(team, "v1.1.0", None, name=f"support#prod#{'9' * 18}")
    assert move(team, "v1.1.0", keys["ada"]) == "support#prod#2"
    assert points_at(team) == "v1.1.0"
    assert len(warnings(team)) == 1
    assert read_published(team.repository).channels("support") == {"prod": "v1.1.0"}


def test_a_rollback_steps_over_what_does_not_count(team: Team, keys: dict[str, Path]) -> None:
    move(team, "v1.0.0", keys["ada"])
    force(team, "v1.1.0", keys["eve"])
    with pytest.raises(NotFoundError, match="pointed at nothing before"):
        rollback(PROD, read_published(team.repository, "support"))
    move(team, "v1.1.0", keys["ada"])
    tag = rollback(PROD, read_published(team.repository, "support"))
    sign_as(team.root, keys["ada"])
    create_assignment(team.repository, tag, "prod")
    assert (tag.name, points_at(team)) == ("support#prod#4", "v1.0.0")


def put(team: Team, name: str, date: str) -> None:
    """Make an annotated tag as whoever can push one would, at a time of their choice."""
    command = ["git", "tag", "--annotate", "--message=x", name, "HEAD"]
    subprocess.run(command, cwd=team.root, env={**os.environ, "GIT_COMMITTER_DATE": date}, check=True)


@pytest.mark.parametrize("date", ["2001-01-01T00:00:00Z", "2099-01-01T00:00:00Z"])
@pytest.mark.parametrize("signer", [None, "eve"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_tag_that_takes_the_channel_back_under_a_promoters_number(
    team: Team, keys: dict[str, Path], date: str, signer: str | None, number: int
) -> None:
    """GTO's `support#prod!#2` is another tag than `support#prod#2`, whichever of the two git lists first."""
    move(team, "v1.0.0", keys["ada"])
    move(team, "v1.1.0", keys["ada"])
    sign_as(team.root, keys.get(signer or ""))
    put(team, f"support#prod!#{number}", date)
    reason = "none of the promoters signed it: ada, grace" if signer else "its tag is not signed, and the channel is "
    newer = [f"support#prod!#2 does not count: {reason}"] if number == 2 else []
    published = read_published(team.repository, "support")
    assert [one.ref for one in published.counted(PROD)] == ["support#prod#2", "support#prod#1"]
    assert points_at(team) == "v1.1.0"
    assert resolve(team.repository, PROD).version == "v1.1.0"
    assert read_published(team.repository).channels("support") == {"prod": "v1.1.0"}
    assert [line.startswith(one) for line, one in zip(warnings(team), newer, strict=True)] == [True] * len(newer)
    everyone = read_published(team.repository)
    everyone.judge.refusals(everyone.of_channel(PROD))  # all at once, as a list of many variants asks
    assert everyone.channel(PROD).version == "v1.1.0"
    back = rollback(PROD, read_published(team.repository, "support"))
    assert back.message.startswith("support prod back to v1.0.0\n")
    assert move(team, "v1.0.0", keys["ada"]) == "support#prod#3"


def test_a_promoter_takes_the_channel_back_as_gto_does(team: Team, keys: dict[str, Path]) -> None:
    """Of one number, what takes back comes last, whatever the clocks said."""
    move(team, "v1.0.0", keys["ada"])
    sign_as(team.root, keys["grace"])
    put(team, "support#prod!#1", "2001-01-01T00:00:00Z")
    with pytest.raises(NotFoundError, match="support#prod points at nothing"):
        points_at(team)
    assert warnings(team) == ()


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")
def test_an_openpgp_signature_is_none_of_a_promoter(
    team: Team, keys: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one that the gpg of this machine trusts fully."""
    home = tmp_path / "g"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    command = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "a@example.org", "ed25519"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    try:
        move(team, "v1.0.0", keys["ada"])
        for key, value in {"gpg.format": "openpgp", "user.signingKey": "a@example.org", "tag.gpgSign": "true"}.items():
            git(team.root, "config", key, value)
        tag = promote(Version("support", "v1.1.0"), "prod", read_published(team.repository, "support"))
        team.repository.create_tag(tag.name, tag.commit, tag.message)
        assert team.repository.check_signature(tag.name)
        assert points_at(team) == "v1.0.0"
        assert len(warnings(team)) == 1
    finally:
        subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=False, capture_output=True)


@pytest.fixture
def call(team: Team, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    monkeypatch.chdir(team.root)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        app(arguments, standalone_mode=False)
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def test_the_commands_say_what_they_stepped_over(team: Team, keys: dict[str, Path], call: Callable[..., str]) -> None:
    sign_as(team.root, keys["ada"])
    call("promote", "support@v1.0.0", "prod")
    force(team, "v1.1.0", keys["eve"])
    line = "support#prod#2 does not count: none of the promoters signed it: ada, grace"
    assert line in call("list")
    assert "prod v1.0.0" in call("list")
    assert line in call("show", "support#prod")
    assert line in call("verify", "support#prod")
    sign_as(team.root, keys["ada"])
    assert line in call("promote", "support@v1.1.0", "prod")
    assert json.loads(call("list", "--json"))[0]["channels"] == {"prod": "v1.1.0"}


def test_a_host_without_a_checkout_judges_by_the_same_rule(team: Team, keys: dict[str, Path], tmp_path: Path) -> None:
    """A bare copy has the origin's branches as its own; the main one may be called anything."""
    move(team, "v1.0.0", keys["ada"])
    force(team, "v1.1.0", keys["eve"])
    git(team.root, "branch", "--move", "main", "trunk")
    found = resolve(mirror(str(team.root), tmp_path / "copies"), PROD)
    assert (found.version, len(found.warnings)) == ("v1.0.0", 1)
