"""A record in git that is not the one of dvc.lock: who says so, and that a build puts it back and runs no stage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.freshness import stale
from builder.graph import Address, build_graph
from builder.load import load
from builder.plan.repository import plan_repository
from registry.lock import content_md5
from tests.standin import Standin, make_standin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD = "schema: 1\nbase: tiny\ndata: {talks: {path: data/talks.jsonl, format: messages}}\nstages:\n"
ONE = f"{HEAD}  tone: {{kind: sft, from: base, data: talks, adapter: {{rank: 2}}}}\n"
CHAIN = f"{ONE}  folded: {{kind: fold, from: base, adapters: {{tone: 1.0}}}}\nrelease: folded\n"
TONE, TINY = "models/chain/records/tone.json", "bases/records/tiny.json"
PUT_BACK = "run `varietal build chain`, which puts it back"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Standin:
    """One variant of two stages, built and committed, its bytes on a local remote."""
    standin = make_standin(tmp_path_factory.mktemp("copies"), {"chain": CHAIN})
    standin.must("dvc", "remote", "add", "--quiet", "--default", "store", str(standin.beside / "remote"))
    standin.must("varietal", "build", "--push")
    standin.commit("Build")
    return standin


def clone(built: Standin, beside: Path, *options: str) -> Standin:
    """A clone that has no bytes."""
    beside.mkdir()
    built.must("git", "clone", "--quiet", *options, built.root.as_uri(), str(beside / "team"))
    standin = Standin(root=beside / "team")
    standin.write_script()
    return standin


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"stage"', '"stage" '))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5])


def conflict(path: Path) -> None:
    text = path.read_text()
    path.write_text(f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n")


def remove(path: Path) -> None:
    path.unlink()


def reasons(standin: Standin) -> tuple[str, ...]:
    """What the gate says of the locks."""
    graph = build_graph(load(standin.root))
    return stale(standin.root, graph, [Address(variant="chain", stage="folded")])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (edit, "is not the record that was built"),
        (cut, "is not the record that was built"),
        (conflict, "has the conflict markers of a merge"),
        (remove, "is not there"),
    ],
)
def test_in_a_fresh_clone(built: Standin, tmp_path: Path, damage: Callable[[Path], None], problem: str) -> None:
    standin = clone(built, tmp_path / "clone")
    right = (standin.root / TONE).read_bytes()
    damage(standin.root / TONE)
    standin.commit("Damage")
    said = f"{TONE} {problem}: {PUT_BACK}"
    plan = plan_repository(standin.root)
    assert (plan.notes, [*map(str, plan.copies)], plan.is_empty) == ((said,), ["chain:tone"], False)
    assert reasons(standin) == (f"chain:tone: {said}",)
    answer = standin.call("varietal", "plan", "--check")
    assert (answer.code, answer.err.splitlines()[0]) == (1, "1 record in git is not its lock's")
    answer = standin.must("varietal", "build", "chain")
    assert answer.out == "1 restored\n"
    assert f"{TONE} is put back, from git's history\n" in answer.err
    assert (standin.root / TONE).read_bytes() == right
    assert plan_repository(standin.root).is_empty
    assert reasons(standin) == ()
    assert standin.must("varietal", "build").out == "nothing to build\n"
    assert standin.ran == []
    assert not (standin.root / "models/chain/artifacts").exists(), "nothing was fetched"


def test_from_the_remote_where_git_never_had_it_here(built: Standin, tmp_path: Path) -> None:
    standin = clone(built, tmp_path / "clone")
    for path in (TONE, TINY):
        cut(standin.root / path)
    standin.commit("Damage")
    shallow = clone(standin, tmp_path / "shallow", "--depth=1")
    assert [*map(str, plan_repository(shallow.root).copies)] == ["bases:tiny", "chain:tone"]
    answer = shallow.must("varietal", "build", "--json")
    rows = {one["stage"]: one["became"] for one in json.loads(answer.out)["stages"]}
    assert rows == {"bases:records@tiny": "restored", "chain:records": "restored"}
    assert f"{TONE} is put back, from remote 'store'\n" in answer.err
    for path in (TONE, TINY):
        assert (shallow.root / path).read_bytes() == (built.root / path).read_bytes()
    assert shallow.ran == []


def test_where_the_record_is_nowhere_that_is_said_and_nothing_is_lost(built: Standin, tmp_path: Path) -> None:
    standin = clone(built, tmp_path / "clone")
    conflict(standin.root / TONE)
    standin.commit("Damage")
    shallow = clone(standin, tmp_path / "shallow", "--depth=1")
    shallow.must("dvc", "remote", "modify", "store", "url", str(tmp_path / "empty"))
    before = (shallow.root / TONE).read_bytes()
    answer = shallow.call("varietal", "build")
    assert answer.code == 2
    assert "the record of chain:tone is neither beside its artifact, nor in git's history" in answer.err
    assert "`dvc repro --force --single-item models/chain/dvc.yaml:tone` builds the stage anew" in answer.err
    assert (shallow.root / TONE).read_bytes() == before


def test_beside_a_stage_that_is_built_and_one_that_fails(built: Standin, tmp_path: Path) -> None:
    """What ended is in git though the copy of the variant's records never came to its turn."""
    standin = built.copy(tmp_path / "copy")
    edit(standin.root / TONE)
    text = (standin.root / "models/chain/model.yaml").read_text()
    other = "  other: {kind: sft, from: base, data: talks, adapter: {rank: 3}}\n"
    bad = "  bad: {kind: sft, from: base, data: talks, adapter: {rank: 4}}\n"
    standin.declare({"chain": text.replace("release:", f"{other}{bad}release:")})
    standin.tell(fail="chain:bad 3\n", ran="")
    answer = standin.call("varietal", "build")
    assert answer.code == 3
    assert f"{TONE} is put back, from beside its artifact\n" in answer.err
    assert "models/chain/records/other.json is put back, from beside its artifact\n" in answer.err
    assert set(standin.ran) == {"chain:other", "chain:bad"}
    assert (standin.root / TONE).read_bytes() == (built.root / TONE).read_bytes()
    plan = plan_repository(standin.root)
    assert [(str(one.address), one.verdict) for one in plan.stages if one.verdict != "keep"] == [("chain:bad", "run")]
    assert plan.copies == ()


def test_a_merge_that_took_the_lock_of_one_side_and_the_record_of_the_other(built: Standin, tmp_path: Path) -> None:
    standin = built.copy(tmp_path / "copy")
    standin.must("git", "checkout", "--quiet", "-b", "other")
    ours, theirs = (standin.root / TONE).read_bytes(), b'{"stage": "chain:tone", "another": "build"}\n'
    lock = standin.root / "models/chain/dvc.lock"
    text = lock.read_text().replace(content_md5(ours), content_md5(theirs))
    lock.write_text(text.replace(f"size: {len(ours)}", f"size: {len(theirs)}"))
    (standin.root / TONE).write_bytes(theirs)
    standin.commit("Build another")
    standin.must("git", "checkout", "--quiet", "main")
    (standin.root / "notes.md").write_text("")
    standin.commit("Go on")
    standin.must("git", "merge", "--quiet", "--no-ff", "--no-commit", "other")
    standin.must("git", "checkout", "main", "--", TONE)
    standin.commit("Merge by halves")
    fresh = clone(standin, tmp_path / "clone")
    assert [*map(str, plan_repository(fresh.root).copies)] == ["chain:tone"]
    assert fresh.must("varietal", "build").out == "1 restored\n"
    assert (fresh.root / TONE).read_bytes() == theirs
    assert fresh.ran == []
