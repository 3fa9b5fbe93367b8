"""Forged records in commits of a request that later ones hide: a rebase or a fast-forward would put them on main."""

from __future__ import annotations

import json
import subprocess
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from builder.request import between, changes
from builder.request.between import unwritten_between
from builder.reuse import candidates_of
from registry.errors import InvalidError
from registry.history import Repository
from registry.index import Index
from tests.forge import MANIFEST, Forge, commit, write, write_built
from tests.repositories import git

if TYPE_CHECKING:
    from pathlib import Path

RECORD, LOCK = "models/other/records/final.json", "models/other/dvc.lock"


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge.make(tmp_path)


def found(forge: Forge, request: str = "origin/wish", *builds: str) -> list[tuple[str, str]]:
    """What the gate finds; each record with the first line of the message of its commit."""
    forge.fetch()
    wish, main = (forge.repository.resolve(one) for one in (request, "origin/main"))
    return [
        (git(forge.runner, "log", "--max-count=1", "--format=%s", one.commit).strip(), one.path)
        for one in unwritten_between(forge.runner, wish, main, builds)
    ]


def step(forge: Forge, message: str, **files: str | None) -> str:
    """One commit of the author; paths by their last letters, ``None`` removes a file."""
    paths = {"record": RECORD, "lock": LOCK, "data": "data/x.jsonl"}
    write(forge.author, {paths[name]: text for name, text in files.items()})
    return commit(forge.author, message)


def take_main(forge: Forge, *options: str) -> None:
    git(forge.author, "fetch", "--quiet", "origin")
    git(forge.author, "merge", "--quiet", "--no-ff", "--message=Take main up", *options, "origin/main")


def test_the_gate_says_no_until_the_commits_are_squashed(forge: Forge) -> None:
    """And what it is about: the same commits, put on main's own line, are believed."""
    records = write_built(forge.author, "support", {"tone": b"evil", "final": b"evil2"})
    forged = commit(forge.author, "Forge")
    git(forge.author, "rm", "-r", "--quiet", "models/support/records", "models/support/dvc.lock")
    request = forge.ask({"data/x.jsonl": "{}\n"}, "Hide it")
    answer = forge.call("gate", "--request", request)
    assert answer.returncode == 1
    said = (
        f"FAIL  models/support/records/tone.json of commit {forged[:12]} is not what a runner wrote: squash the commits"
    )
    assert said in answer.stdout
    assert (
        "**Not what a runner wrote**, in commits that" in forge.call("gate", "--request", request, "--markdown").stdout
    )
    value = json.loads(forge.call("gate", "--request", request, "--json").stdout)
    assert {"commit": forged, "path": "models/support/records/tone.json", "merged": False} in value["request"][
        "between"
    ]
    assert (value["passed"], value["request"]["unwritten"]) == (False, [])

    git(forge.runner, "merge", "--quiet", "--ff-only", request)
    with Index.open(forge.repository) as index:
        sightings = index.by_action(records["tone"].action.digest)
        assert records["tone"] in [one.record for one in candidates_of(forge.runner, sightings)]
    git(forge.runner, "reset", "--quiet", "--hard", "origin/main")

    git(forge.author, "reset", "--quiet", "--soft", "origin/main")
    request = forge.ask(message="All at once")
    answer = forge.call("gate", "--request", request, "--json")
    assert json.loads(answer.stdout)["request"]["between"] == []


def test_each_way_to_bring_a_record_in_between(forge: Forge) -> None:
    step(forge, "Begin", data="{}\n")
    step(forge, "Forge", record="evil")
    step(forge, "Forge more", record="worse")
    step(forge, "Hide", record=None)
    step(forge, "Once more", record="evil")
    step(forge, "Hide again", record=None)
    forge.send()
    assert found(forge) == [("Once more", RECORD), ("Forge more", RECORD)]
    git(forge.author, "checkout", "--quiet", "-B", "wish", "HEAD~")  # what it ends with is told, too
    forge.send()
    assert found(forge) == [("Once more", RECORD), ("Forge more", RECORD)]


def test_what_main_has_or_had_on_its_line_is_nobody_s_forgery(forge: Forge) -> None:
    forge.main({RECORD: "one"})
    step(forge, "Begin", data="{}\n")
    take_main(forge)
    forge.main({RECORD: "two"})
    take_main(forge)
    step(forge, "Go back", record="one")
    forge.main({RECORD: None})
    forge.send()
    assert found(forge) == []
    step(forge, "Forge", record="three")
    forge.send()
    assert found(forge) == [("Forge", RECORD)]


def test_a_merge_that_brings_more_than_its_parents_have(forge: Forge) -> None:
    forge.main({RECORD: "one"})
    step(forge, "Begin", data="{}\n")
    take_main(forge, "--no-commit")
    step(forge, "Take main up", record="evil")
    step(forge, "Hide", record=None)
    forge.send()
    assert found(forge) == [("Take main up", RECORD)]


def merged_with_its_history(forge: Forge) -> str:
    """A request whose forgery was merged before anybody looked: main has the commit, but not on its line."""
    forged = step(forge, "Forge", record="evil")
    step(forge, "Hide", record=None, data="{}\n")
    forge.send()
    forge.main({})
    place = forge.runner.parent / "maintainer"
    git(place, "fetch", "--quiet")
    git(place, "merge", "--quiet", "--no-ff", "--message=Merge", "origin/wish")
    git(place, "push", "--quiet", "origin", "main")
    git(forge.author, "fetch", "--quiet")
    return forged


@pytest.mark.parametrize("then", ["", "merge main"])
def test_a_request_that_starts_from_what_is_off_main_s_line(forge: Forge, then: str) -> None:
    """Its first parents lead over the forgery: a fast-forward would put that on the line, which has it not."""
    forged = merged_with_its_history(forge)
    git(forge.author, "checkout", "--quiet", "-B", "wish", forged)
    step(forge, "Hide once more", record=None)
    if then:
        take_main(forge)
    forge.send()
    assert found(forge) == [("Forge", RECORD)]


def test_a_merge_of_what_is_off_main_s_line(forge: Forge) -> None:
    forged = merged_with_its_history(forge)
    git(forge.author, "checkout", "--quiet", "-B", "wish", "origin/main")
    step(forge, "Begin", data="[]\n")
    git(forge.author, "merge", "--quiet", "--no-ff", "--no-commit", "--strategy=ours", forged)
    git(forge.author, "checkout", forged, "--", RECORD)
    commit(forge.author, "Bring it back")
    step(forge, "Hide", record=None)
    forge.send()
    assert found(forge) == [("Bring it back", RECORD)]


def test_what_runners_wrote_for_earlier_commits_stays(forge: Forge) -> None:
    for number in range(2):
        git(forge.author, "fetch", "--quiet")
        if number:
            git(forge.author, "reset", "--quiet", "--hard", "origin/wish")
        request = forge.ask({"models/calm/model.yaml": MANIFEST.replace("steps: 2", f"steps: {3 + number}")})
        assembled = forge.assemble(request)
        write_built(assembled.root, "calm", {"tone": b"%d" % number, "final": b"x%d" % number})
        write_built(assembled.root, "bases", {"tiny": b"cccc"})
        done = forge.call("publish", "--request", request, "--branch", "wish")
        assert done.returncode == 0, done.stderr
        forge.fetch()
    builds = forge.assemble().builds
    assert found(forge, "origin/wish", *builds) == []
    assert "bases/records/tiny.json" in {path for _, path in found(forge)}, "without them it would find them all"
    answer = forge.call("gate", "--request", "origin/wish", "--json")
    assert json.loads(answer.stdout)["request"]["between"] == []


def make_tree(forge: Forge, *rows: str) -> str:
    done = subprocess.run(
        ["git", "mktree"],
        input="".join(f"{row}\n" for row in rows),
        cwd=forge.author,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_bomb_in_between_ends_early(forge: Forge) -> None:
    """The assembled tree never sees it, since the last commit has it no more."""
    tree = git(forge.author, "rev-parse", "HEAD^{tree}").strip()
    write(forge.author, {"data/x.jsonl": "{}\n"})
    bomb = make_tree(
        forge,
        *(f"100644 blob {git(forge.author, 'hash-object', '-w', 'data/x.jsonl').strip()}\t{n}.json" for n in range(10)),
    )
    for _ in range(9):
        bomb = make_tree(forge, *(f"040000 tree {bomb}\td{n}" for n in range(10)))
    for path in ("models/x/records", "models", "docs"):
        first, *rest = path.split("/")
        oid = bomb
        for name in reversed(rest):
            oid = make_tree(forge, f"040000 tree {oid}\t{name}")
        rows = [row for row in git(forge.author, "ls-tree", tree).splitlines() if row.split("\t")[1] != first]
        whole = make_tree(forge, *rows, f"040000 tree {oid}\t{first}")
        middle = git(forge.author, "commit-tree", whole, "-p", "origin/main", "-m", "Bomb").strip()
        last = git(forge.author, "commit-tree", tree, "-p", middle, "-m", "Hide").strip()
        git(forge.author, "push", "--quiet", "--force", "origin", f"{last}:refs/heads/wish")
        start = time.monotonic()
        assert found(forge) == []
        assert time.monotonic() - start < 10


def test_odd_names_are_told_and_steer_nothing(forge: Forge) -> None:
    path = "models/o\n\x1b[2J/records/a\n\udcff.json"
    write(forge.author, {path: "evil"})
    commit(forge.author, "Forge")
    write(forge.author, {path: None})
    request = forge.ask({"data/x.jsonl": "{}\n"}, "Hide")
    assert found(forge) == [("Forge", path)]
    answer = forge.call("gate", "--request", request)
    assert answer.returncode == 1
    assert "\x1b" not in answer.stdout
    assert "\\x1b[2J/records/a\\n\\udcff.json of commit " in answer.stdout
    assert "\ufffd" not in forge.call("gate", "--request", request, "--markdown").stdout
    (one,) = json.loads(forge.call("gate", "--request", request, "--json").stdout)["request"]["between"]
    assert one["path"] == ascii(path)


def test_more_commits_than_any_request_has_end_it(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        step(forge, f"Step {number}", data="{}\n" * number)
    forge.send()
    assert found(forge) == []
    monkeypatch.setattr(between, "_MOST_COMMITS", 3)
    with pytest.raises(InvalidError, match="more than 3 commits that main lacks") as squash:
        found(forge)
    assert squash.value.mend == "squash them"


def test_more_commits_off_the_line_than_any_request_has_end_it(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    merged_with_its_history(forge)
    step(forge, "Go on", data="[]\n")
    forge.send()
    monkeypatch.setattr(between, "_MOST_COMMITS", 2)
    with pytest.raises(InvalidError, match="not on its line, more than 2 in all") as rebase:
        found(forge)
    assert rebase.value.mend == "rebase the request onto main"


def test_work_that_goes_on_from_what_was_merged_is_told_how_to_pass(forge: Forge) -> None:
    """Its branch had two builds and a merge commit, and what runners pushed for it is gone: only the records of the
    second stood on main's line, and no squash of what is new drops those of the first."""
    for message in ("Build", "Build again"):
        write_built(forge.author, "support", {"tone": message.encode(), "final": b"final"})
        commit(forge.author, message)
    forge.send()
    forge.main({})
    place = forge.runner.parent / "maintainer"
    git(place, "fetch", "--quiet")
    git(place, "merge", "--quiet", "--no-ff", "--message=Merge", "origin/wish")
    git(place, "push", "--quiet", "origin", "main")
    request = forge.ask({"data/x.jsonl": "{}\n"}, "Next work")
    assert {message for message, _ in found(forge)} == {"Build"}
    said = forge.call("gate", "--request", request).stdout
    assert "is not what a runner wrote: rebase the request onto main, which has that commit" in said
    assert "squash" not in said
    value = json.loads(forge.call("gate", "--request", request, "--json").stdout)
    assert {one["merged"] for one in value["request"]["between"]} == {True}
    said = forge.call("gate", "--request", request, "--markdown").stdout
    assert "in commits that would come with it; rebase the request onto main" in said
    git(forge.author, "fetch", "--quiet")
    git(forge.author, "rebase", "--quiet", "origin/main")
    forge.send()
    assert found(forge) == []


def test_more_records_than_are_asked_about_are_not_called_forged(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    forge.main({RECORD: "one"})
    forge.main({RECORD: "two"})
    forge.main({RECORD: "three"})
    for text in ("one", "two"):
        step(forge, "Go back", record=text)
    forge.send()
    monkeypatch.setattr(between, "_MOST_ASKED", 2)
    assert found(forge) == []
    monkeypatch.setattr(between, "_MOST_ASKED", 1)
    with pytest.raises(InvalidError, match="more than 1 records that no build which is known here wrote"):
        found(forge)


def test_what_differs_is_counted_while_it_is_read(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees of a few kilobytes differ in any number of entries, over and over from commit to commit."""
    count, parent = 4_000, git(forge.author, "rev-parse", "origin/main").strip()
    write(forge.author, {"one": "1", "two": "2"})
    blobs = [git(forge.author, "hash-object", "-w", name).strip() for name in ("one", "two")]
    for number in range(20):
        rows = (f"100644 blob {blobs[number % 2]}\tf{at:05}" for at in range(count))
        tree = make_tree(forge, *rows, f"100644 blob {blobs[0]}\tu{number}")
        tree = make_tree(forge, f"040000 tree {tree}\tmodels")
        parent = git(forge.author, "commit-tree", tree, "-p", parent, "-m", "Bomb").strip()
    git(forge.author, "push", "--quiet", "--force", "origin", f"{parent}:refs/heads/wish")
    monkeypatch.setattr(changes, "_MAX_IN_ALL", count)
    forge.fetch()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidError, match=f"more than {count} files and folders differ from commit to commit"):
            found(forge)
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


def test_names_of_any_length_have_an_end_too(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    step(forge, "Begin", data="{}\n")
    forge.send()
    monkeypatch.setattr(changes, "_BLOCK_BYTES", 7)  # what git prints comes in parts of any length
    assert found(forge) == []
    monkeypatch.setattr(changes, "_MAX_BYTES", 100)
    with pytest.raises(InvalidError, match="files and folders differ"):
        found(forge)


def test_a_rebase_of_what_passed_brings_nothing_that_is_not_told(forge: Forge) -> None:
    """The commits are other ones then; what stands in them is what was looked at."""
    step(forge, "Begin", data="{}\n")
    forge.send()
    forge.main({"data/y.jsonl": "{}\n"})
    git(forge.author, "fetch", "--quiet")
    assert found(forge) == []
    git(forge.author, "rebase", "--quiet", "origin/main")
    forge.send()
    assert found(forge) == []
    assert Repository(forge.author).is_ancestor(forge.repository.resolve("origin/main"), "HEAD")
