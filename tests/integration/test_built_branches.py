"""What runners keep at the origin for builds and the gate: found again, however it was merged, and dropped."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from builder.request.assembled import STATE_FILE, request_folder
from builder.request.built import built_branch
from builder.request.push import Move, check_branch, push
from builder.request.retire import retire_trees
from registry.errors import ConflictError, InvalidError
from tests.forge import MANIFEST, Forge, write, write_built
from tests.repositories import git

if TYPE_CHECKING:
    from pathlib import Path

    from builder.request.assembled import Assembled


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge.make(tmp_path)


def build(forge: Forge, branch: str, variant: str, weights: bytes) -> Assembled:
    """Ask for a variant on a branch of its own, build it and publish it."""
    git(forge.author, "fetch", "--quiet", "--prune", "origin")
    git(forge.author, "checkout", "--quiet", "--detach", "origin/main")
    write(forge.author, {f"models/{variant}/model.yaml": MANIFEST})
    git(forge.author, "add", "--all")
    git(forge.author, "commit", "--quiet", "-m", branch)
    git(forge.author, "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
    forge.fetch()
    assembled = forge.assemble(f"origin/{branch}")
    write_built(assembled.root, variant, {"tone": weights, "final": weights + b"x"})
    write_built(assembled.root, "bases", {"tiny": b"cccc"})
    done = forge.call("publish", "--request", assembled.request, "--branch", branch)
    assert done.returncode == 0, done.stderr
    forge.fetch()
    return assembled


def maintainer(forge: Forge) -> Path:
    place = forge.runner.parent / "merger"
    if not place.exists():
        git(place.parent, "clone", "--quiet", str(forge.origin), place.name)
        for key, value in {"user.name": "M", "user.email": "m@example.org"}.items():
            git(place, "config", key, value)
    git(place, "fetch", "--quiet", "--prune", "origin")
    git(place, "checkout", "--quiet", "--detach", "origin/main")
    return place


def queue(forge: Forge, how: str, *branches: str) -> str:
    """Main as it would be, as a merge queue makes it."""
    place = maintainer(forge)
    for branch in branches:
        if how == "rebase":
            git(place, "commit", "--quiet", "--allow-empty", "-m", "Else")  # so that every commit gets a new id
            git(place, "cherry-pick", f"origin/main..origin/{branch}")
        elif how == "squash":
            git(place, "merge", "--quiet", "--squash", f"origin/{branch}")
            git(place, "commit", "--quiet", "-m", f"{branch} (#1)")
        else:
            git(place, "merge", "--quiet", "--no-ff", "-m", f"Merge {branch}", f"origin/{branch}")
    git(place, "push", "--quiet", "--force", "origin", "HEAD:refs/heads/queue")
    forge.fetch()
    return git(place, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize("how", ["merge", "squash", "rebase"])
def test_the_gate_knows_what_runners_wrote_however_it_is_merged(forge: Forge, how: str) -> None:
    build(forge, "wish", "calm", b"aaaa")
    build(forge, "other", "warm", b"bbbb")
    for branches in (("wish",), ("wish", "other")):
        commit = queue(forge, how, *branches)
        done = forge.call("gate", "--request", commit, "--json")
        assert json.loads(done.stdout)["request"]["unwritten"] == [], done.stdout


def test_a_squash_that_changes_a_record_is_not_what_a_runner_wrote(forge: Forge) -> None:
    build(forge, "wish", "calm", b"aaaa")
    queue(forge, "squash", "wish")
    place = maintainer(forge)
    git(place, "checkout", "--quiet", "--detach", "origin/queue")
    path = place / "models/calm/records/final.json"
    path.write_bytes(path.read_bytes().replace(b'"duration_s"', b'"duration_s" '))
    git(place, "commit", "--quiet", "--all", "--amend", "--no-edit")
    git(place, "push", "--quiet", "--force", "origin", "HEAD:refs/heads/queue")
    forge.fetch()
    done = forge.call("gate", "--request", "origin/queue")
    assert (done.returncode, "final.json is not what a runner wrote" in done.stdout) == (1, True), done.stdout


def test_a_branch_below_the_name_of_an_earlier_one(forge: Forge) -> None:
    build(forge, "fix", "calm", b"aaaa")
    git(forge.author, "push", "--quiet", "origin", ":fix")
    forge.fetch()
    build(forge, "fix/tone", "warm", b"bbbb")
    names = git(forge.origin, "for-each-ref", "--format=%(refname)", "refs/heads/varietal").split()
    assert names == ["refs/heads/varietal/built/fix", "refs/heads/varietal/built/fix%2ftone"]


def test_a_name_in_the_way_is_told_as_that(forge: Forge) -> None:
    head = git(forge.runner, "rev-parse", "origin/main").strip()
    push(forge.repository, [Move(ref="refs/heads/fix", old="", new=head)])
    with pytest.raises(ConflictError, match="the branch fix stands in the way of fix/tone"):
        push(forge.repository, [Move(ref="refs/heads/fix/tone", old="", new=head)])


def test_names_of_built_branches() -> None:
    assert built_branch("wish") == "varietal/built/wish"
    names = ["fix", "fix/tone", "Fix", "fix%2ftone", "fix.lock", "f\u00fcx", "a" * 240, "a" * 239 + "b"]
    made = {built_branch(name).casefold() for name in names}
    assert len(made) == len(names)
    assert all("/" not in name.removeprefix("varietal/built/") and len(name) < 240 for name in made)


@pytest.mark.parametrize("branch", ["varietal/built/wish", "varietal/built/x/y"])
def test_nobody_publishes_over_what_runners_keep(forge: Forge, branch: str) -> None:
    with pytest.raises(InvalidError, match="where runners keep what they built"):
        check_branch(forge.repository, branch)


def test_a_request_is_never_published_onto_main(forge: Forge) -> None:
    request = forge.ask({"data/x.jsonl": "{}\n"})
    write_built(forge.assemble().root, "support", {"tone": b"one", "final": b"two"})
    before = git(forge.origin, "for-each-ref")
    done = forge.call("publish", "--request", request, "--branch", "main")
    assert (done.returncode, "main is the main branch" in done.stderr) == (4, True), done.stderr
    assert git(forge.origin, "for-each-ref") == before


@pytest.mark.parametrize("how", ["merge", "squash"])
def test_what_was_kept_for_merged_requests_goes_with_the_promotion(forge: Forge, how: str) -> None:
    build(forge, "wish", "calm", b"aaaa")
    build(forge, "other", "warm", b"bbbb")
    queue(forge, how, "wish")
    git(forge.runner.parent / "merger", "push", "--quiet", "origin", "HEAD:refs/heads/main")
    git(forge.runner, "pull", "--quiet")
    done = forge.call("publish", "--promote", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["retired"] == ["varietal/built/wish"]
    names = git(forge.origin, "for-each-ref", "--format=%(refname)", "refs/heads/varietal").split()
    assert names == ["refs/heads/varietal/built/other"]


def test_what_is_over_is_dropped_by_a_job_of_its_own(forge: Forge) -> None:
    """One that has the right to push, and needs no remote."""
    build(forge, "wish", "calm", b"aaaa")
    build(forge, "other", "warm", b"bbbb")
    queue(forge, "merge", "wish")
    git(forge.runner.parent / "merger", "push", "--quiet", "origin", "HEAD:refs/heads/main")
    git(forge.runner, "fetch", "--quiet")
    before = git(forge.origin, "for-each-ref")
    done = forge.call("publish", "--retire", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "varietal/built/wish\n"), done.stderr
    assert git(forge.origin, "for-each-ref") == before
    (forge.runner / ".dvc/config").unlink()
    done = forge.call("publish", "--retire", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"retired": ["varietal/built/wish"], "written": True}
    names = git(forge.origin, "for-each-ref", "--format=%(refname)", "refs/heads/varietal").split()
    assert names == ["refs/heads/varietal/built/other"]
    assert forge.call("publish", "--retire").stdout == "nothing to retire\n"
    done = forge.call("publish", "--retire", "--promote")
    assert (done.returncode, done.stderr.splitlines()[0]) == (4, "--retire and --dry-run take no other option")


def test_without_the_right_to_delete_it_is_an_error(forge: Forge) -> None:
    build(forge, "wish", "calm", b"aaaa")
    queue(forge, "merge", "wish")
    git(forge.runner.parent / "merger", "push", "--quiet", "origin", "HEAD:refs/heads/main")
    git(forge.runner, "fetch", "--quiet")
    git(forge.origin, "config", "receive.denyDeletes", "true")
    done = forge.call("publish", "--retire")
    assert done.returncode == 7, done.stderr
    assert git(forge.origin, "for-each-ref", "refs/heads/varietal") != ""


def test_a_build_that_came_since_is_not_dropped(forge: Forge) -> None:
    build(forge, "wish", "calm", b"aaaa")
    queue(forge, "merge", "wish")
    git(forge.runner.parent / "merger", "push", "--quiet", "origin", "HEAD:refs/heads/main")
    git(forge.runner, "fetch", "--quiet")
    newer = git(forge.origin, "commit-tree", "main^{tree}", "-p", "varietal/built/wish", "-m", "A newer one").strip()
    git(forge.origin, "update-ref", "refs/heads/varietal/built/wish", newer)
    done = forge.call("publish", "--retire")
    assert done.returncode == 5, done.stderr
    assert git(forge.origin, "rev-parse", "varietal/built/wish").strip() == newer


def test_promoting_without_the_right_to_push_promotes(forge: Forge) -> None:
    build(forge, "wish", "calm", b"aaaa")
    queue(forge, "merge", "wish")
    git(forge.runner.parent / "merger", "push", "--quiet", "origin", "HEAD:refs/heads/main")
    git(forge.runner, "pull", "--quiet")
    hook = forge.origin / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    done = forge.call("publish", "--promote")
    assert (done.returncode, "branches of merged requests stay at the origin" in done.stderr) == (0, True), done.stderr
    assert "calm:final is on the default remote" in done.stdout


def test_a_remote_that_is_not_there(forge: Forge) -> None:
    done = forge.call("publish", "--promote", "--remote", "nosuch")
    assert (done.returncode, "there is no remote 'nosuch'" in done.stderr) == (2, True), done.stderr


def test_trees_of_requests_that_are_over_go(forge: Forge) -> None:
    first = forge.ask({"data/x.jsonl": "{}\n"})
    forge.assemble()
    second = forge.ask({"data/y.jsonl": "{}\n"})
    forge.assemble()
    place = request_folder(forge.runner, first)
    assert retire_trees(forge.repository, keep=second) == ()
    old = time.time() - 31 * 86_400
    os.utime(place / STATE_FILE, (old, old))
    with (place / ".varietal/build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert retire_trees(forge.repository, keep=second) == ()
    assert retire_trees(forge.repository, keep=second) == (first,)
    assert not place.exists()
    assert request_folder(forge.runner, second).exists()
    assert git(forge.runner, "for-each-ref", "--format=%(refname)", "refs/varietal").split() == [
        f"refs/varietal/assembled/{second}"
    ]
