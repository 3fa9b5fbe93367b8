"""Tags and the origin: what is there and not here, what goes there together, and what happens where it is away."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.cli import app
from registry.errors import ConflictError, DeniedError, TransportError
from registry.origin import check_tags, compare_with_origin, push_tags
from registry.refs import Version
from registry.releases import NewTag
from registry.tag_message import Promise, release_message
from registry.tagging import make_tags
from tests.keys import make_key, public_line, sign_as
from tests.repositories import Team, git

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare origin and a clone of it, with v1.0.0 and v1.1.0 pushed; read only."""
    place = tmp_path_factory.mktemp("prepared")
    git(place, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    team = Team.make(place / "team")
    for version in ("v1.0.0", "v1.1.0"):
        record = team.build("support:final", {"a": version.encode()})
        team.commit(f"Build {version}")
        ref = Version("support", version)
        team.repository.create_tag(str(ref), "HEAD", release_message(ref, Promise.of(record)))
    git(team.root, "remote", "add", "origin", "../origin.git")
    git(team.root, "push", "--quiet", "--tags", "origin", "main")
    git(team.root, "fetch", "--quiet", "origin")
    git(team.root, "remote", "set-head", "origin", "main")
    return place


@pytest.fixture
def team(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    place = shutil.copytree(prepared, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(place / "team")
    monkeypatch.setenv("VARIETAL_STORE", str(tmp_path / "store"))
    return Team(place / "team")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Run a verb and return what it printed to stdout and to stderr."""

    def run(*arguments: str) -> tuple[str, str]:
        capsys.readouterr()
        app(arguments, standalone_mode=False)
        printed = capsys.readouterr()
        return printed.out, printed.err

    return run


def colleague(team: Team) -> Team:
    """Another clone of the origin."""
    git(team.root.parent, "clone", "--quiet", "origin.git", "colleague")
    root = team.root.parent / "colleague"
    for key, value in {"user.name": "B", "user.email": "b@example.org", "tag.gpgsign": "false"}.items():
        git(root, "config", key, value)
    return Team(root)


def at_origin(team: Team) -> list[str]:
    return git(team.root.parent / "origin.git", "tag", "--list").split()


def test_what_differs_is_named() -> None:
    check_tags({"a@v1.0.0": "1", "a@v1.1.0": "2"}, {"a@v1.0.0": "1"})
    with pytest.raises(ConflictError) as caught:
        check_tags({"a@v1.0.0": "1"}, {"a@v1.0.0": "2", "a@v1.1.0": "3"})
    assert caught.value.what == "not the same here and at the origin: a@v1.0.0"
    with pytest.raises(ConflictError) as caught:
        check_tags({}, {f"a@v1.{number}.0": "1" for number in range(7)})
    assert caught.value.what == (
        "the origin has tags that are not here: a@v1.0.0, a@v1.1.0, a@v1.2.0, a@v1.3.0, a@v1.4.0 and 2 more"
    )


def test_two_people_promote_at_once(team: Team, call: Callable[..., tuple[str, str]]) -> None:
    other = colleague(team)
    call("promote", "support@v1.1.0", "prod", "--push")
    assert "support#prod#1" in at_origin(team)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(other.root)
        with pytest.raises(ConflictError) as caught:
            call("promote", "support@v1.0.0", "prod", "--push")
    assert caught.value.what == "the origin has tags that are not here: support#prod#1"
    assert caught.value.mend == "`git fetch --tags`, look at what is new, and try again"
    assert git(other.root, "tag", "--list", "support#*") == ""


def test_a_tag_that_came_to_the_origin_in_the_last_moment(team: Team) -> None:
    """The origin keeps the first; the second leaves nothing behind here, of several tags neither the others."""
    other = colleague(team)
    head = team.repository.head()
    make_tags(other.repository, [NewTag(name="twin@v1.0.0", commit=head, message="theirs\n")], push=True)
    tags = [NewTag(name=f"{name}@v1.0.0", commit=head, message="ours\n") for name in ("apart", "twin")]
    with pytest.raises(ConflictError, match="the origin has one of these already: apart@v1"):
        make_tags(team.repository, tags, push=True)
    assert git(team.root, "tag", "--list", "apart*", "twin*") == ""
    assert not [name for name in at_origin(team) if name.startswith("apart")]


def test_a_release_that_was_moved_at_the_origin(team: Team, call: Callable[..., tuple[str, str]]) -> None:
    origin = team.root.parent / "origin.git"
    first = git(origin, "rev-parse", "support@v1.0.0").strip()
    git(origin, "update-ref", "refs/tags/support@v1.1.0", first)
    with pytest.raises(ConflictError) as caught:
        call("promote", "support@v1.1.0", "prod")
    assert caught.value.what == "not the same here and at the origin: support@v1.1.0"


def test_tags_of_other_variants_are_nobody_elses_business(team: Team, call: Callable[..., tuple[str, str]]) -> None:
    other = colleague(team)
    make_tags(other.repository, [NewTag(name="supporter@v1.0.0", commit="HEAD", message="x\n")], push=True)
    call("promote", "support@v1.1.0", "prod", "--push")
    assert "support#prod#1" in at_origin(team)


def test_a_rollback_while_the_origin_is_away(team: Team, call: Callable[..., tuple[str, str]]) -> None:
    call("promote", "support@v1.0.0", "prod")
    call("promote", "support@v1.1.0", "prod")
    (team.root.parent / "origin.git").rename(team.root.parent / "gone.git")
    out, err = call("rollback", "support#prod")
    assert "support#prod#3: support prod back to v1.0.0" in out
    assert "the origin was not asked for newer tags: " in err
    with pytest.raises(TransportError):
        call("promote", "support@v1.1.0", "prod", "--push")
    assert "support#prod#4" not in git(team.root, "tag", "--list")


def test_an_origin_that_takes_no_such_tag(team: Team, call: Callable[..., tuple[str, str]]) -> None:
    """Exit code 7, with the words of whoever made the rule; no tag is left here that the origin does not have."""
    hook = team.root.parent / "origin.git/hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'Tags are made by release managers.' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(DeniedError) as caught:
        call("promote", "support@v1.0.0", "prod", "--push")
    assert caught.value.what == (
        "the origin refuses it (pre-receive hook declined): Tags are made by release managers."
    )
    assert caught.value.exit_code == 7
    assert git(team.root, "tag", "--list", "support#*") == ""


def test_no_origin_at_all(team: Team) -> None:
    git(team.root, "remote", "remove", "origin")
    said: list[str] = []
    compare_with_origin(team.repository, ["support"], said.append)
    assert said == []
    with pytest.raises(TransportError):
        push_tags(team.repository, ["support@v1.0.0"])


def test_a_withdrawn_release(team: Team, call: Callable[..., tuple[str, str]]) -> None:
    out, _ = call("withdraw", "support@v1.1.0", "--reason", "wrong tokenizer", "--push")
    assert out.startswith("support@v1.1.0!: support v1.1.0 is withdrawn, commit ")
    assert "support@v1.1.0!" in at_origin(team)
    assert json.loads(call("list", "--json")[0])[0]["withdrawn"] == ["v1.1.0"]
    assert call("list")[0].split()[:2] == ["support", "v1.0.0"]
    assert ", withdrawn\n" in call("changelog", "support")[0]
    shown = subprocess.run(
        [Path(sys.executable).with_name("gto"), "show", "support", "--json"],
        cwd=team.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [row["version"] for row in json.loads(shown.stdout)] == ["v1.0.0"]


def test_the_changelog_is_written_for_the_next_commit(team: Team, call: Callable[..., tuple[str, str]]) -> None:
    out, err = call("changelog", "support", "--write")
    assert err == "wrote models/support/CHANGELOG.md\n"
    assert (team.root / "models/support/CHANGELOG.md").read_text() == out


def test_a_shallow_clone_lacks_tags_and_says_so(
    team: Team, call: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{team.root.parent / 'origin.git'}"
    git(team.root.parent, "clone", "--quiet", "--depth=1", url, "shallow")
    monkeypatch.chdir(team.root.parent / "shallow")
    with pytest.raises(ConflictError) as caught:
        call("promote", "support@v1.1.0", "prod")
    assert caught.value.what == "the origin has tags that are not here: support@v1.0.0"


def test_a_checkout_without_a_branch_promotes_as_any_other(team: Team, call: Callable[..., tuple[str, str]]) -> None:
    git(team.root, "checkout", "--quiet", "--detach", "HEAD~1")
    call("promote", "support@v1.1.0", "prod")
    assert "prod v1.1.0" in call("list")[0]


def test_a_clock_that_is_behind_reorders_nothing(
    team: Team, call: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert team.root == Path.cwd()
    call("promote", "support@v1.0.0", "prod")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2001-01-01T00:00:00Z")
    call("promote", "support@v1.1.0", "prod")
    monkeypatch.delenv("GIT_COMMITTER_DATE")
    assert "prod v1.1.0" in call("list")[0]
    assert [row["number"] for row in json.loads(call("log", "support#prod", "--json")[0])] == [2, 1]
    call("rollback", "support#prod")
    assert "prod v1.0.0" in call("list")[0]


def test_one_command_rolls_back_here_at_the_origin_and_for_hosts_without_git(
    team: Team, call: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    """A protected channel, by a promoter; the descriptor is there after the tag."""
    remote = shutil.copytree(team.root / ".dvc" / "cache", tmp_path / "remote")
    (team.root / ".dvc" / "config").write_text(f"[core]\n    remote = r\n['remote \"r\"']\n    url = {remote}\n")
    ada, eve = make_key(tmp_path, "ada"), make_key(tmp_path, "eve")
    rule = f"bases: {{}}\nchannels: {{prod: {{promoters: {{ada: {public_line(ada)}}}}}}}\n"
    (team.root / "params.yaml").write_text(rule)
    team.commit("Protect prod")
    git(team.root, "push", "--quiet", "origin", "main")
    sign_as(team.root, ada)
    call("promote", "support@v1.0.0", "prod", "--push", "--key", str(ada))
    call("promote", "support@v1.1.0", "prod", "--push", "--key", str(ada))
    answer = json.loads(call("rollback", "support#prod", "--push", "--key", str(ada), "--json")[0])
    assert answer["tag"] == "support#prod#3"
    assert answer["written"] == ["varietal/support/channels/prod.json"]
    assert "support#prod#3" in at_origin(team)
    envelope = json.loads((remote / "varietal/support/channels/prod.json").read_bytes())
    payload = json.loads(envelope["payload"])
    assert (payload["version"], payload["sequence"]) == ("v1.0.0", 3)
    sign_as(team.root, eve)
    with pytest.raises(DeniedError, match="the key that git signs with may not move prod: ada may"):
        call("promote", "support@v1.1.0", "prod", "--push", "--key", str(eve))
    assert "support#prod#4" not in at_origin(team)
