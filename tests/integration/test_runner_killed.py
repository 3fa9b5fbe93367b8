"""A runner dies while it builds a request, and another takes its place: what is computed again, and that all ends well.

What stages compute is played, and takes as long as a file says (:mod:`tests.played`); all else is real.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.keys import make_key, public_line
from tests.standin import Standin, make_standin

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

pytestmark = pytest.mark.slow  # one kill of a build is in `test_build.py`, in the default run

HEAD = "schema: 1\nbase: tiny\ndata: {talks: {path: data/talks.jsonl, format: messages}}\nstages:\n"
PLAIN = (
    f"{HEAD}  s: {{kind: sft, from: base, data: talks, adapter: {{rank: 2}}, train: {{seed: 9}}}}\n"
    "release: s\nchecks: []\n"
)
ROW = (
    f"{HEAD}  first: {{kind: sft, from: base, data: talks, adapter: {{rank: 2}}, train: {{seed: 1}}}}\n"
    "  second: {kind: fold, from: base, adapters: {first: 1.0}}\n"
    "  third: {kind: sft, from: second, data: talks, adapter: {rank: 2}, train: {seed: 3}}\n"
    "release: third\nchecks: []\n"
)
TALK = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
LIMIT_S = 60
SCRIPT = f"""\
#!/bin/sh
[ "$1" = run ] || exec {Path(sys.executable).parent}/varietal "$@"
PYTHONPATH={Path(__file__).parents[2]} exec {sys.executable} -P -m tests.played "$@"
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare origin with a branch `wish`, a default remote and a quarantine: what every runner sees."""
    place = tmp_path_factory.mktemp("asked")
    seed = make_standin(place / "seed", {"plain": PLAIN})
    (seed.root / "data/talks.jsonl").write_text(TALK)
    rules = {kind: {"one": public_line(make_key(place, f"{kind}-key"))} for kind in ("requests", "branches")}
    with (seed.root / "params.yaml").open("a") as stream:
        stream.write(f"runners: {json.dumps(rules)}\n")
    write_script(seed)
    for name, options in (("released", ("--default",)), ("quarantine", ())):
        seed.must("dvc", "remote", "add", "--quiet", *options, name, f"../../{name}")
    seed.must("dvc", "repro", "--quiet")
    seed.must("dvc", "push", "--quiet", "--run-cache", "--remote", "released")
    seed.commit("Build")
    seed.must("git", "clone", "--quiet", "--bare", ".", str(place / "origin.git"))
    seed.must("git", "checkout", "--quiet", "-b", "wish")
    seed.declare({"row": ROW})
    seed.commit("Wish")
    seed.must("git", "push", "--quiet", str(place / "origin.git"), "wish")
    return place


def write_script(standin: Standin) -> None:
    """Put the script before the command on the PATH."""
    path = standin.beside / "bin/varietal"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SCRIPT)
    path.chmod(0o755)


def clone(place: Path, name: str) -> Standin:
    """A runner's clone, in a folder of its own."""
    runner = Standin(root=place / name / "team")
    (place / name).mkdir()
    write_script(runner)
    Standin(root=place).must("git", "clone", "--quiet", "origin.git", str(runner.root))
    return runner


def tree_of(runner: Standin, ref: str = "origin/wish") -> Standin:
    """Where the request is built."""
    commit = runner.must("git", "rev-parse", ref).out.strip()
    return Standin(root=runner.root / ".varietal/requests" / commit)


def told(tree: Standin) -> list[str]:
    """What stages have said of their start and end."""
    path = tree.beside / "ran"
    return path.read_text().splitlines() if path.exists() else []


def rows(tree: Standin) -> list[str]:
    """Stages of the request that were started."""
    return [one for one in tree.ran if one.startswith("row:")]


def wait(condition: Callable[[], bool], build: subprocess.Popen[str], limit_s: float = LIMIT_S) -> None:
    """Until it holds; the build must not end before."""
    until = time.monotonic() + limit_s
    while not condition():
        assert build.poll() is None, build.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def notes(place: Path) -> list[Path]:
    """Progress notes on either remote."""
    return [*place.glob("*/varietal/progress_notes/*/*/*.json")]


def broken_off(place: Path, how: str, *command: str, pushed: bool = False, key: Path | None = None) -> Standin:
    """A runner that is killed while it computes the second of three stages; the first has ended.

    Args:
        place: What all runners see.
        how: Whether the build dies ``alone``, its ``group``, or all that the machine runs, as without ``power``.
        command: The build.
        pushed: Whether the bytes of the first stage are waited for on the remote, and its note where there is a key.
        key: Key of the runner.
    """
    runner = clone(place, "one")
    if key is not None:
        (runner.root / ".varietal").mkdir()
        (runner.root / ".varietal/runner.yaml").write_text(f"progress_key: {key}\n")
    if "--request" not in command:
        runner.must("git", "checkout", "--quiet", "-b", "wish", "origin/wish")
    tree = tree_of(runner) if "--request" in command else runner
    remote = place / ("quarantine" if "--request" in command else "released")
    before = set(remote.rglob("*.dir"))
    tree.beside.mkdir(parents=True, exist_ok=True)
    build = runner.start(*command)
    try:
        wait(lambda: "end row:first" in told(tree), build)
        tree.tell(seconds="600")
        wait(lambda: "start row:second" in told(tree), build)
        if pushed:
            wait(lambda: set(remote.rglob("*.dir")) > before, build, limit_s=LIMIT_S / 2)
        if key is not None:
            wait(lambda: notes(place) != [], build, limit_s=LIMIT_S / 2)
    finally:
        everything = standing(runner.root) if how == "power" else []
        if how == "alone":
            build.kill()
        else:
            os.killpg(build.pid, signal.SIGKILL)
        for pid in everything:
            kill(pid)
        build.communicate()
    tree.tell(seconds="0")
    assert rows(tree) == ["row:first", "row:second"]
    return runner


def standing(root: Path) -> list[int]:
    """Processes that stand in a folder or below it: all that a machine without power would lose."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").resolve().is_relative_to(root.resolve()):
                found.append(int(path.name))
        except OSError:
            continue
    return sorted(found)  # parents first


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


REQUEST = ("varietal", "build", "--request", "origin/wish", "--push")


@pytest.mark.parametrize("how", ["alone", "group", "power"])
def test_the_next_build_on_the_machine_computes_only_what_had_not_ended(asked: Path, tmp_path: Path, how: str) -> None:
    place = copy(asked, tmp_path)
    runner = broken_off(place, how, *REQUEST)
    answer = runner.must(*REQUEST)
    tree = tree_of(runner)
    assert rows(tree) == ["row:first", "row:second", "row:second", "row:third"]
    assert answer.out.startswith("3 ran; ")  # the third is the copy of the records
    assert standing(runner.root) == []
    assert tree.must("dvc", "repro", "--allow-missing").ran == []


def test_a_lock_file_that_dvc_left_half_written_hinders_nobody(asked: Path, tmp_path: Path) -> None:
    runner = broken_off(copy(asked, tmp_path), "power", *REQUEST)
    (tree_of(runner).root / ".dvc/tmp/rwlock").write_text("")
    runner.must(*REQUEST)


def test_bytes_go_while_the_next_stage_runs(asked: Path, tmp_path: Path) -> None:
    broken_off(copy(asked, tmp_path), "alone", *REQUEST, pushed=True)


def test_another_machine_goes_on_from_what_was_pushed(asked: Path, tmp_path: Path) -> None:
    """It has nothing but git and the remotes; what the first had finished it believes by the key that main names."""
    place = copy(asked, tmp_path)
    first = tree_of(broken_off(place, "power", *REQUEST, pushed=True, key=asked / "requests-key"))
    other = clone(place, "two")
    answer = other.must(*REQUEST)
    tree = tree_of(other)
    assert rows(tree) == ["row:second", "row:third"]
    assert "reused   row:first" in answer.err
    assert "row:first: one finished this in another build of commit " in answer.err
    assert answer.out.startswith("1 reused, 3 ran; ")
    assert record(tree, "first") == record(first, "first")  # byte for byte, as if nothing had been killed
    assert not (tree.root / ".varietal/runner.yaml").exists()
    assert "progress_key" not in (first.root / ".varietal/runner.yaml").read_text()

    other.must("varietal", "publish", "--request", "origin/wish")
    assert notes(place) == []  # git has it all now
    other.must("git", "fetch", "--quiet", "origin")
    other.must("varietal", "gate", "--request", "origin/wish")
    assert other.must("varietal", "plan", "--request", "origin/wish", "--check").code == 0


def test_another_machine_goes_on_with_a_trusted_branch_too(asked: Path, tmp_path: Path) -> None:
    place = copy(asked, tmp_path)
    broken_off(place, "power", "varietal", "build", "--push", pushed=True, key=asked / "branches-key")
    other = clone(place, "two")
    other.must("git", "checkout", "--quiet", "-b", "wish", "origin/wish")
    other.must("varietal", "build")
    assert rows(other) == ["row:second", "row:third"]


def test_a_runner_that_main_does_not_name_is_not_believed(asked: Path, tmp_path: Path) -> None:
    """Nor is one that may build requests believed of main: it says so itself, and leaves no notes."""
    place = copy(asked, tmp_path)
    broken_off(place, "power", *REQUEST, pushed=True)
    assert notes(place) == []
    other = clone(place, "two")
    (other.root / ".varietal").mkdir()
    (other.root / ".varietal/runner.yaml").write_text(f"progress_key: {asked / 'branches-key'}\n")
    answer = other.must(*REQUEST)
    assert rows(tree_of(other)) == ["row:first", "row:second", "row:third"]
    assert "no progress note: runners.requests of params.yaml on the main branch does not name the key" in answer.err
    assert notes(place) == []


def test_dvc_on_another_machine_goes_on_from_what_was_pushed(asked: Path, tmp_path: Path) -> None:
    """Of a trusted branch, whose bytes go to the remote that DVC looks at."""
    place = copy(asked, tmp_path)
    broken_off(place, "power", "varietal", "build", "--push", pushed=True)
    other = clone(place, "two")
    other.must("git", "checkout", "--quiet", "-b", "wish", "origin/wish")
    other.must("dvc", "repro", "--pull", "--allow-missing")
    assert rows(other) == ["row:second", "row:third"]


def test_another_machine_gives_what_the_first_would_have_given(asked: Path, tmp_path: Path) -> None:
    """Whatever it has to compute again; nothing of the first is in its way, and the first may come back later."""
    place = copy(asked, tmp_path)
    first = broken_off(place, "power", *REQUEST)
    other = clone(place, "two")
    other.must(*REQUEST)
    other.must("varietal", "publish", "--request", "origin/wish")
    first.must(*REQUEST)
    answer = first.call("varietal", "publish", "--request", "origin/wish")
    assert answer.code == 5, answer.err
    first.must("git", "fetch", "--quiet", "origin")
    first.must("varietal", "gate", "--request", "origin/wish")
    assert first.must("varietal", "plan", "--request", "origin/wish", "--check").code == 0


def record(tree: Standin, stage: str) -> bytes:
    """A record as DVC keeps it."""
    return (tree.root / f"models/row/artifacts/{stage}.json").read_bytes()


def copy(asked: Path, tmp_path: Path) -> Path:
    """An origin and remotes of the test's own."""
    for name in ("origin.git", "released"):
        shutil.copytree(asked / name, tmp_path / name)
    return tmp_path
