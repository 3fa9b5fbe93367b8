"""A repository in a state that it should not be in: what each verb says of it, and that it leaves everything as it was.

What is in `test_plan.py`, `test_build.py`, `test_publish.py` and `test_release.py` of such states is not said again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.forge import Forge, commit, write_built
from tests.repositories import git
from tests.yard import WIDE, Yard, cast_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.forge import Answer
    from tests.team import Team

VERBS = {
    "plan": ("plan", "--check"),
    "build": ("build",),
    "gate": ("gate", "plain"),
    "publish": ("publish",),
    "release": ("release", "plain@v1.0.0", "--push"),
}
CONFLICT = "a merge left its conflict markers"
IN_LOCK = f"{CONFLICT} in the lock\n  where: models/plain/dvc.lock\n  mend: take one side, `git checkout --theirs "
IN_RECORD = (
    f"{CONFLICT} in the record\n  where: models/plain/records/final.json\n  mend: `varietal build` puts back the record"
)
MERGED = "take one side of each, then take the markers out"


def call(team: Team, verb: str, *options: str) -> Answer:
    """The command in this process: a new one takes half a second to start."""
    forge = Forge(origin=team.root, runner=team.root, author=team.root)
    return forge.call(verb, *options) if options else forge.call(*VERBS[verb])


def everything(team: Team) -> tuple[str, ...]:
    """What a verb that refuses must leave alone: work tree, commit, tags, and the origin."""
    asked = (("status", "--porcelain"), ("diff",), ("rev-parse", "HEAD"), ("tag",), ("ls-remote", "origin"))
    return tuple(team.must("git", *one).out for one in asked)


def edit(path: str, old: str, new: str) -> Callable[[Team], None]:
    """Replace text in a file."""

    def change(team: Team) -> None:
        text = (team.root / path).read_text()
        assert old in text
        (team.root / path).write_text(text.replace(old, new))

    return change


def conflict(path: str) -> Callable[[Team], None]:
    """Leave a file as a merge does that nobody finished."""

    def change(team: Team) -> None:
        text = (team.root / path).read_text()
        (team.root / path).write_text(f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n")

    return change


def evil(team: Team) -> None:
    """Write a stage into a pipeline by hand."""
    path = team.root / "models/plain/dvc.yaml"
    path.write_text(f"{path.read_text()}  evil:\n    cmd: touch {team.root.parent / 'pwned'}\n")


PIPELINE = "models/plain/dvc.yaml is not what the manifest says: run `varietal compile`"
RECORD = "models/plain/records/final.json is not the record that was built"
DTYPE = "stages.final is {'kind': 'cast', 'from': 'base', 'dtype': 'float16'}, it was built with"
STATES = {
    "a pipeline edited by hand": (
        evil,
        {
            "build": (4, "1 pipeline is not what the manifests say\n  where: models/plain/dvc.yaml\n"),
            "gate": (1, f"FAIL  {PIPELINE}\n"),
            "publish": (1, "not what the manifests say: models/plain/dvc.yaml\n"),
            "release": (1, f"the lock is stale: {PIPELINE}"),
        },
    ),
    "a pipeline with conflict markers": (
        conflict("models/plain/dvc.yaml"),
        {
            "plan": (0, f"goes by it: models/plain/dvc.yaml, since {CONFLICT} in models/plain/dvc.yaml; run `varietal"),
            "build": (4, f"1 pipeline is not what the manifests say, since {CONFLICT} in models/plain/dvc.yaml\n"),
            "gate": (1, f"is not what the manifest says, since {CONFLICT} in models/plain/dvc.yaml: run `varietal com"),
            "publish": (1, f"not what the manifests say: models/plain/dvc.yaml, since {CONFLICT} in models/plain/dvc"),
        },
    ),
    "a lock of another branch": (
        edit("models/plain/dvc.lock", "dtype: float16", "dtype: bfloat16"),
        {
            "plan": (1, "stages.final.dtype: bfloat16 -> float16\n"),
            "gate": (1, f"FAIL  plain:final: {DTYPE}"),
            "release": (1, f"the lock is stale: plain:final: {DTYPE}"),
        },
    ),
    "a lock with conflict markers": (
        conflict("models/plain/dvc.lock"),
        {
            "plan": (4, IN_LOCK),
            "build": (4, IN_LOCK),
            "gate": (4, IN_LOCK),
            "publish": (4, IN_LOCK),
            "release": (4, IN_LOCK),
        },
    ),
    "a manifest with conflict markers": (
        conflict("models/plain/model.yaml"),
        {
            "plan": (4, f"models/plain/model.yaml:1: {CONFLICT}\n  mend: {MERGED}\n"),
            "build": (4, f"models/plain/model.yaml:1: {CONFLICT}\n"),
            "gate": (4, f"models/plain/model.yaml:1: {CONFLICT}\n"),
            "publish": (1, "not committed: models/plain/model.yaml\n"),
            "release": (4, f"models/plain/model.yaml:1: {CONFLICT}\n"),
        },
    ),
    "params.yaml with conflict markers": (
        conflict("params.yaml"),
        {
            "plan": (4, f"params.yaml:1: {CONFLICT}\n"),
            "build": (4, f"params.yaml:1: {CONFLICT}\n"),
            "gate": (4, f"params.yaml:1: {CONFLICT}\n"),
            "publish": (1, "not committed: params.yaml\n"),
            "release": (4, f"params.yaml:1: {CONFLICT}\n"),
        },
    ),
    "a record with conflict markers": (
        conflict("models/plain/records/final.json"),
        {
            "plan": (1, "models/plain/records/final.json has the conflict markers of a merge: run `varietal build"),
            "gate": (4, IN_RECORD),
            "publish": (1, f"{RECORD}\n  where: dvc.lock of plain\n"),
            "release": (4, IN_RECORD),
        },
    ),
    "a record that is not the lock's": (
        edit("models/plain/records/final.json", '"duration_s"', '"duration_s" '),
        {
            "plan": (1, f"note: {RECORD}: run `varietal build plain`, which puts it back\n"),
            "gate": (1, f"FAIL  plain:final: {RECORD}: run `varietal build plain`, which puts it back\n"),
            "publish": (1, f"{RECORD}\n  where: dvc.lock of plain\n"),
        },
    ),
}


@pytest.mark.parametrize(("change", "verdicts"), [pytest.param(*state, id=name) for name, state in STATES.items()])
def test_what_each_verb_says(yard: Yard, change: Callable[[Team], None], verdicts: dict[str, tuple[int, str]]) -> None:
    team = yard.main("somebody")
    change(team)
    before = everything(team)
    for verb, (code, said) in verdicts.items():
        answer = call(team, verb)
        assert (verb, answer.returncode) == (verb, code), answer.stderr
        assert said in answer.stdout + answer.stderr
        assert everything(team) == before
    assert not (yard.place / "pwned").exists()


def test_the_remote_is_not_there_when_a_version_is_released(yard: Yard) -> None:
    team = yard.main("somebody")
    edit(".dvc/config", "../../released", "http://127.0.0.1:9/released")(team)
    team.commit("Another remote")
    team.must("git", "push", "--quiet", "origin", "main")
    before = everything(team)
    answer = call(team, "release")
    assert answer.returncode == 6, answer.stderr
    assert answer.stderr.startswith("reading failed: ")
    assert "  where: remote 'released': " in answer.stderr
    assert everything(team) == before


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("    remote = store\n", "", 2, "DVC has no default remote\n"),
        ("url = STORE", "url = http://127.0.0.1:9/store", 6, "reading failed: "),
        ("url = STORE", "url = FILE/store", 6, "Not a directory"),
    ],
    ids=["missing", "no network", "no folder"],
)
def test_the_remote_is_not_there_when_bytes_are_published(
    tmp_path: Path, old: str, new: str, code: int, said: str
) -> None:
    """Nothing that cannot be had elsewhere gets a name in git."""
    forge = Forge.make(tmp_path)
    (tmp_path / "file").write_text("")
    path = forge.runner / ".dvc/config"
    replaced = path.read_text().replace(old.replace("STORE", str(tmp_path / "store")), new)
    path.write_text(replaced.replace("FILE", str(tmp_path / "file")))
    commit(forge.runner, "Another remote")
    write_built(forge.runner, "support", {"tone": b"one", "final": b"two"})
    before = git(forge.origin, "for-each-ref"), git(forge.runner, "status", "--porcelain")
    answer = forge.call("publish")
    assert answer.returncode == code, answer.stderr
    assert said in answer.stderr
    assert (git(forge.origin, "for-each-ref"), git(forge.runner, "status", "--porcelain")) == before


def test_a_clone_that_is_cut_off_plans_and_judges_and_takes_no_request(yard: Yard) -> None:
    yard.ask("ada", {"models/wish/model.yaml": cast_of(WIDE, "dtype: bfloat16")})
    yard.merge("ada")
    wish = yard.ask("ada", {"models/wish/model.yaml": cast_of(WIDE, "dtype: float16")})
    yard.clone("seed").must(
        "git", "clone", "--quiet", "--depth=1", "--no-single-branch", yard.origin.as_uri(), "../cut"
    )
    team = yard.clone("cut")
    before = everything(team)
    answer = call(team, "plan")
    assert answer.returncode == 1  # the merged wish was never built
    assert "note: this clone is shallow: artifacts of commits that it lacks are not found again" in answer.stdout
    assert call(team, "gate").returncode == 0
    for verb in ("plan", "build", "gate"):
        answer = call(team, verb, "--request", "origin/ada")
        assert answer.returncode == 2, answer.stderr
        assert answer.stderr == (
            f"the request has no commit in common with main\n  where: commit {wish}\n"
            "  mend: fetch all of its history (`git fetch --unshallow`); a request starts from main\n"
        )
    assert everything(team) == before


def test_a_checkout_without_a_branch(yard: Yard) -> None:
    """As a runner checks out: everything works that does not need a branch, and publishing is told one."""
    team = yard.main("somebody")
    team.must("git", "checkout", "--quiet", "--detach")
    for verb in ("plan", "build", "gate"):
        assert call(team, verb).returncode == 0
    answer = call(team, "publish")
    assert (answer.returncode, answer.stderr.splitlines()[0]) == (4, "no branch is checked out")
    answer = call(team, "publish", "--branch", "main")
    assert (answer.returncode, answer.stdout) == (0, "main has all of it already\n"), answer.stderr


def test_a_dirty_tree_is_judged_as_it_lies_and_not_published(yard: Yard) -> None:
    team = yard.main("somebody")
    (team.root / "notes.txt").write_text("")
    edit("models/plain/model.yaml", "checks: []", "checks: []  # on purpose")(team)
    before = everything(team)
    assert call(team, "plan").returncode == 0
    answer = call(team, "build")
    assert (answer.returncode, answer.stdout) == (0, "nothing to build\n")
    assert "2 changes are not committed: what is built is the work tree, not a commit\n" in answer.stderr
    assert call(team, "gate").returncode == 0
    answer = call(team, "publish")
    assert (answer.returncode, answer.stderr.splitlines()[0]) == (1, "not committed: models/plain/model.yaml")
    answer = call(team, "release")
    assert answer.returncode == 1
    assert "the work tree differs from the commit: models/plain/model.yaml, notes.txt\n" in answer.stderr
    assert everything(team) == before
