"""What someone gains whose request is merged with all its history: records that no one has judged vouch for nothing."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from builder.reuse import candidates_of
from registry.index import Index
from registry.record import git_record
from registry.vouched import Vouched
from tests.repositories import Team, git

if TYPE_CHECKING:
    from pathlib import Path

    from registry.record import Record


@pytest.fixture
def team(tmp_path: Path) -> Team:
    """Main has one honest stage."""
    team = Team.make(tmp_path / "team")
    team.build("support:tone", {"w": b"good"})
    team.commit("Build")
    return team


def forge(team: Team, ref: str, tensor: bytes, steps: int, message: str) -> Record:
    """Commit a record on what is checked out; of its artifact nothing stays in the work tree."""
    record = team.build(ref, {"w": tensor}, settings={"steps": steps})
    team.commit(message)
    shutil.rmtree(team.root / "models" / record.variant / "artifacts")
    return record


def merge(team: Team, branch: str, *options: str) -> None:
    git(team.root, "checkout", "--quiet", "main")
    git(team.root, "merge", "--quiet", *(options or ("--no-ff", "--message=Merge")), branch)


def believed(team: Team, record: Record) -> list[str]:
    """The commits for whose word an artifact would be linked in place of a computation; and the lineage's answer."""
    with Index.open(team.repository) as index:
        sightings = index.by_action(record.action.digest)
        assert sightings, "the index does not know it: nothing is shown"
        found = [one.record.artifact.digest for one in candidates_of(team.root, sightings)]
        walked = Vouched(team.repository, index).by_artifact(record.artifact.digest)
    assert len(found) == len(walked)
    return [one.commit for one in walked]


def test_a_forged_record_that_a_later_commit_hides_is_not_believed_after_the_merge(team: Team) -> None:
    git(team.root, "checkout", "--quiet", "-b", "wish")
    forged = forge(team, "evil:tone", b"evil", 9, "Forge")
    git(team.root, "rm", "-r", "--quiet", "models/evil")
    team.commit("Hide")
    assert believed(team, forged)  # on the branch itself: nobody builds there
    merge(team, "wish")
    assert believed(team, forged) == []


def test_a_forged_state_of_a_record_that_main_has_is_not_believed(team: Team) -> None:
    git(team.root, "checkout", "--quiet", "-b", "wish")
    forged = forge(team, "support:tone", b"evil", 9, "Forge")
    git(team.root, "checkout", "--quiet", "main", "--", "models")
    honest = forge(team, "support:voice", b"new", 3, "Build another")
    merge(team, "wish")
    assert believed(team, forged) == []
    assert len(believed(team, honest)) == 2  # the work tree, too


def test_what_a_request_ended_with_is_believed_by_the_merge_that_brought_it(team: Team) -> None:
    """Also when main has changed or removed it since; the lock beside it is that of the merge."""
    git(team.root, "checkout", "--quiet", "-b", "wish")
    record = forge(team, "calm:tone", b"calm", 3, "Build")
    path = str(git_record("calm", "tone"))
    (team.root / "models/calm/dvc.lock").write_text("something else\n")
    team.commit("Go on")
    team.outputs.pop("calm")
    again = forge(team, "calm:tone", b"calm", 3, "Build it again")
    assert again == record
    merge(team, "wish")
    merged = git(team.root, "rev-parse", "HEAD").strip()
    git(team.root, "rm", "-r", "--quiet", "models/calm")
    team.commit("Remove it")
    assert path not in git(team.root, "ls-files")
    assert believed(team, record) == [merged]


def test_a_squash_leaves_the_states_between_behind(team: Team) -> None:
    git(team.root, "checkout", "--quiet", "-b", "wish")
    forged = forge(team, "evil:tone", b"evil", 9, "Forge")
    git(team.root, "rm", "-r", "--quiet", "models/evil")
    team.commit("Hide")
    merge(team, "wish", "--squash")
    team.commit("Squash")
    assert believed(team, forged) == []


def test_a_main_that_was_merged_into_a_branch_is_no_witness_for_the_branch_it_came_from(team: Team) -> None:
    """A branch that takes main up has what main was then; what main was before that, main itself vouches for."""
    git(team.root, "branch", "mine")
    old = forge(team, "support:voice", b"old", 1, "Build")
    new = forge(team, "support:voice", b"new", 2, "Build anew")
    git(team.root, "checkout", "--quiet", "mine")
    team.commit("Of my own")
    git(team.root, "merge", "--quiet", "--no-ff", "--message=Take main up", "main")
    assert len(believed(team, new)) == 2
    assert believed(team, old) == []
    git(team.root, "checkout", "--quiet", "main")
    assert len(believed(team, old)) == 1
