"""`varietal build` with real DVC and git on stages that take no time: what runs when, and what is left when it ends."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from registry.lock import Lock
from tests.standin import Standin, make_standin

if TYPE_CHECKING:
    import subprocess

HEAD = "schema: 1\nbase: tiny\ndata: {talks: {path: data/talks.jsonl, format: messages}}\nstages:\n"
MANY = HEAD + "".join(
    f"  s{number}: {{kind: sft, from: base, data: talks, adapter: {{rank: 2}}, train: {{seed: {number}}}}}\n"
    for number in range(4)
)
CHAIN = (
    f"{HEAD}  tone: {{kind: sft, from: base, data: talks, adapter: {{rank: 2}}, train: {{seed: 9}}}}\n"
    "  folded: {kind: fold, from: base, adapters: {tone: 1.0}}\n"
)
LIMIT_S = 30


@pytest.fixture(scope="session")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Standin:
    """One variant of four stages that need each other in nothing, one of two in a row; not built."""
    manifests = {"many": f"{MANY}release: s0\n", "chain": f"{CHAIN}release: folded\n"}
    return make_standin(tmp_path_factory.mktemp("standin"), manifests)


@pytest.fixture(scope="session")
def finished(declared: Standin, tmp_path_factory: pytest.TempPathFactory) -> Standin:
    """The same, built by `varietal build` with its bytes on a local remote, committed."""
    standin = declared.copy(tmp_path_factory.mktemp("finished"))
    standin.must("dvc", "remote", "add", "--quiet", "--default", "store", str(standin.beside / "remote"))
    answer = standin.must("varietal", "build", "--jobs", "2", "--push")
    assert answer.out == "10 ran; 21 files pushed\n"  # of each of 7 stages a listing, a file in it, a record
    standin.commit("Build")
    return standin


@pytest.fixture
def fresh(declared: Standin, tmp_path: Path) -> Standin:
    return declared.copy(tmp_path)


@pytest.fixture
def built(finished: Standin, tmp_path: Path) -> Standin:
    return finished.copy(tmp_path)


def edit(standin: Standin, old: str, new: str, variant: str = "many") -> None:
    path = standin.root / "models" / variant / "model.yaml"
    standin.declare({variant: path.read_text().replace(old, new)})


def lock(standin: Standin, variant: str = "many") -> Lock:
    path = standin.root / "models" / variant / "dvc.lock"
    return Lock.parse(path.read_bytes(), where=str(path))


def wait_for_start(standin: Standin, build: subprocess.Popen[str], count: int = 1) -> None:
    until = time.monotonic() + LIMIT_S
    while len(standin.ran) < count:
        assert build.poll() is None, build.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def orphans(standin: Standin) -> list[str]:
    """Command lines of processes that stand in the repository."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").resolve() == standin.root.resolve():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_four_at_once_share_one_lock_and_leave_it_whole(fresh: Standin) -> None:
    fresh.tell(together="many 4")  # each waits for the other three
    answer = fresh.must("varietal", "build", "many", "--jobs", "4")
    assert answer.out == "7 ran\n"
    assert fresh.most_at_once() == 4
    assert set(lock(fresh).stages) == {"s0", "s1", "s2", "s3", "records"}
    assert fresh.must("dvc", "repro", "models/many/dvc.yaml").ran == []
    assert sorted(path.name for path in (fresh.root / "models/many/records").iterdir()) == [
        f"s{number}.json" for number in range(4)
    ]


def test_dvc_repro_gives_the_same(finished: Standin, fresh: Standin) -> None:
    fresh.must("dvc", "repro", "--pull", "--allow-missing")
    for path in ("bases/dvc.lock", "models/many/dvc.lock", "models/chain/dvc.lock"):
        ours, theirs = (Lock.parse((one.root / path).read_bytes(), where=path).stages for one in (finished, fresh))
        assert ours == theirs
    records = sorted(path.relative_to(fresh.root) for path in fresh.root.glob("**/records/*.json"))
    assert len(records) == 7
    assert all((fresh.root / path).read_bytes() == (finished.root / path).read_bytes() for path in records)
    assert fresh.must("varietal", "build").out == "nothing to build\n"


def test_a_second_build_has_nothing_to_do(built: Standin) -> None:
    before = built.ran
    assert built.must("varietal", "build").out == "nothing to build\n"
    assert built.must("dvc", "repro").ran == []
    assert built.ran == before
    assert built.must("git", "status", "--porcelain").out == ""


def test_a_failure_stops_what_depends_on_it_and_nothing_else(built: Standin) -> None:
    edit(built, "rank: 2", "rank: 4")
    edit(built, "rank: 2", "rank: 4", "chain")
    built.tell(fail="many:s1 3\nchain:tone 1\n")
    answer = built.call("varietal", "build", "--json")
    became = {one["stage"]: one["became"] for one in json.loads(answer.out)["stages"]}
    assert became == {
        "many:s0": "ran",
        "many:s1": "failed",
        "many:s2": "ran",
        "many:s3": "ran",
        "many:records": "skipped",
        "chain:tone": "failed",
        "chain:folded": "skipped",
        "chain:records": "skipped",
    }
    assert answer.code in {1, 3}  # the class of whichever failed first
    assert "FAILED   many:s1  after " in answer.err
    assert "  | it cannot be done\n" in answer.err
    assert "  log: .varietal/logs/many/s1.log\n" in answer.err
    assert "skipped  chain:folded  it needs chain:tone\n" in answer.err
    # DVC takes back what a failed build added to .gitignore (its issue 11091): ours has nothing added
    changed = built.must("git", "status", "--porcelain").out.splitlines()
    assert not [line for line in changed if "gitignore" in line or line.startswith("??")]
    built.tell(fail="", ran="")
    answer = built.must("varietal", "build")
    assert set(built.ran) == {"many:s1", "chain:tone", "chain:folded"}


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
    ids=["INT", "TERM"],
)
def test_a_build_that_is_ended_stops_in_order_and_is_taken_up(
    built: Standin, number: signal.Signals, code: int
) -> None:
    edit(built, "rank: 2", "rank: 4")
    built.tell(seconds="60", ran="")
    build = built.start("varietal", "build", "--jobs", "2", "--json")
    wait_for_start(built, build, 2)
    build.send_signal(number)
    out, err = build.communicate(timeout=LIMIT_S)
    assert build.returncode == code, err
    assert orphans(built) == []
    assert {one["became"] for one in json.loads(out)["stages"]} == {"stopped"}
    assert "stopping: running stages are asked to end" in err
    assert not json.loads((built.root / ".dvc/tmp/rwlock").read_text()).get("write")  # DVC ended in order, too
    built.tell(seconds="0", ran="")
    assert built.must("varietal", "build", "--jobs", "2").out.startswith("4 ran")


def test_a_build_that_is_killed_leaves_nothing_running_and_is_taken_up_at_once(built: Standin) -> None:
    edit(built, "rank: 2", "rank: 4")
    built.tell(seconds="60", ran="")
    build = built.start("varietal", "build", "--jobs", "2")
    wait_for_start(built, build, 2)
    build.kill()
    build.communicate()
    built.tell(seconds="0")
    answer = built.must("varietal", "build", "--jobs", "2")
    assert answer.out.startswith("4 ran")
    assert orphans(built) == []
    assert built.ran.count("many:s0") == 2


def test_another_build_is_running(built: Standin) -> None:
    edit(built, "rank: 2", "rank: 4")
    built.tell(seconds="60", ran="")
    build = built.start("varietal", "build", "many:s0")
    try:
        wait_for_start(built, build)
        answer = built.call("varietal", "build")
        assert answer.code == 5
        assert (
            answer.err.startswith(
                f"a build is running here already, as process {build.pid}\n  where: .varietal/build.lock\n  mend: "
            )
            or f"a build is running here already, as process {build.pid}\n" in answer.err
        )
    finally:
        build.send_signal(signal.SIGTERM)
        build.communicate(timeout=LIMIT_S)


def test_what_dvc_fails_to_write_down_is_not_computed_again(built: Standin) -> None:
    """Its guard of a file is held, as by many that end at once: it gives up after three seconds, the stage is done."""
    edit(built, "rank: 2", "rank: 4")
    built.tell(seconds="1", ran="")
    build = built.start("varietal", "build", "many:s0")
    wait_for_start(built, build)
    with (built.root / ".dvc/tmp/rwlock.lock").open("a+") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        log = built.root / ".varietal/logs/many/s0.log"
        until = time.monotonic() + LIMIT_S
        while "Unable to acquire lock" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
    _, err = build.communicate(timeout=LIMIT_S)
    assert build.returncode == 0, err
    assert "again    many:s0" in err
    assert built.ran == ["many:s0"]
    assert built.must("dvc", "status", "models/many/dvc.yaml:s0").out.startswith("Data and pipelines are up to date")


def test_a_stage_sees_no_credentials_and_no_module_of_the_work_tree_is_loaded(built: Standin) -> None:
    """DVC and the push stand in the work tree; a file there that is called as a module of theirs would run."""
    for name in ("dvc", "yaml", "ctypes", "select", "builder"):
        (built.root / f"{name}.py").write_text(f"open('../loaded-{name}', 'w')\n")
    edit(built, "rank: 2", "rank: 4")
    secrets = {"AWS_SECRET_ACCESS_KEY": "a", "GITHUB_TOKEN": "b", "HF_TOKEN": "c", "GIT_ASKPASS": "d"}
    (built.root / ".varietal/runner.yaml").write_text("environment: [HF_TOKEN]\ndevices: ['5']\nthreads: 3\n")
    built.must("varietal", "build", "many:s0", "--push", **secrets)
    assert not list(built.beside.glob("loaded-*"))
    seen = (built.beside / "environment").read_text()
    assert "HF_TOKEN=c\n" in seen
    assert not [name for name in secrets if name != "HF_TOKEN" and f"{name}=" in seen]
    assert "CUDA_VISIBLE_DEVICES=5\n" in seen


def test_a_fresh_clone_fetches_only_what_a_changed_stage_needs(built: Standin, tmp_path: Path) -> None:
    clone = Standin(root=tmp_path / "clone" / "team")
    built.must("git", "clone", "--quiet", str(built.root), str(clone.root))
    clone.write_script()
    assert clone.must("varietal", "build").out == "nothing to build\n"
    assert not (clone.root / "models/chain/artifacts").exists()
    edit(clone, "{tone: 1.0}", "{tone: 0.5}", "chain")
    clone.must("varietal", "build", "chain")
    assert clone.ran == ["chain:folded"]
    present = {path.name for path in (clone.root / "models/chain/artifacts").iterdir() if path.is_dir()}
    assert present == {"tone", "folded"}
    assert clone.must("dvc", "repro", "--allow-missing").ran == []


def test_bytes_that_were_pushed_reach_another_clone(finished: Standin, tmp_path: Path) -> None:
    clone = Standin(root=tmp_path / "clone" / "team")
    finished.must("git", "clone", "--quiet", str(finished.root), str(clone.root))
    clone.write_script()
    clone.must("dvc", "pull", "--quiet", "--run-cache")
    assert clone.must("dvc", "status", "--cloud").out.startswith("Cache and remote 'store' are in sync")
    runs = {path.name for path in (clone.root / ".dvc/cache/runs").rglob("*") if path.is_file()}
    ours = {path.name for path in (finished.root / ".dvc/cache/runs").rglob("*") if path.is_file()}
    assert len(ours) == 7
    assert runs >= ours  # other tests push there too


@pytest.mark.slow
def test_what_an_earlier_build_did_not_push_is_pushed(built: Standin) -> None:
    remote = built.beside / "second"
    built.must("dvc", "remote", "add", "--quiet", "second", str(remote))
    answer = built.must("varietal", "build", "--remote", "second")
    assert answer.out.startswith("nothing to build; ")
    assert built.must("dvc", "status", "--cloud", "--remote", "second").out.startswith("Cache and remote")


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("", 2, "there is no such remote"),
        pytest.param("http://127.0.0.1:9/store", 6, "sending failed: ", marks=pytest.mark.slow),
        ("FILE/store", 6, "sending failed: "),
    ],
    ids=["missing", "no network", "no folder"],
)
def test_a_remote_that_cannot_be_reached_is_said_before_anything_is_computed(
    built: Standin, url: str, code: int, said: str
) -> None:
    edit(built, "rank: 2", "rank: 4")
    built.tell(ran="", file="")
    if url:
        address = url.replace("FILE", str(built.beside / "file"))
        built.must("dvc", "remote", "add", "--quiet", "other", address)
    answer = built.call("varietal", "build", "--push", "--remote", "other")
    assert answer.code == code, answer.err
    assert said in answer.err
    assert "  where: remote 'other'\n  mend: " in answer.err
    assert built.ran == []


def test_a_stale_pipeline_is_refused(built: Standin) -> None:
    path = built.root / "models/many/model.yaml"
    path.write_text(path.read_text().replace("  s3:", "  s4:"))
    answer = built.call("varietal", "build", "many")
    assert answer.code == 4
    assert (
        "1 pipeline is not what the manifests say\n"
        "  where: models/many/dvc.yaml\n"
        "  mend: run `varietal compile`, look at what it changed, then build again\n"
    ) in answer.err
    assert built.must("varietal", "build", "chain").out == "nothing to build\n"


def test_a_lock_with_conflict_markers_is_refused(built: Standin) -> None:
    path = built.root / "models/many/dvc.lock"
    path.write_text("<<<<<<< ours\n" + path.read_text() + "=======\n>>>>>>> theirs\n")
    built.tell(ran="")
    edit(built, "rank: 2", "rank: 4")
    answer = built.call("varietal", "build", "many")
    assert answer.code == 4
    assert "models/many/dvc.lock" in answer.err
    assert "mend: " in answer.err
    assert built.ran == []


def test_a_dirty_tree_is_built_and_said(built: Standin) -> None:
    (built.root / "notes.txt").write_text("")
    assert "1 change is not committed: what is built is the work tree" in built.must("varietal", "build").err


def test_an_input_that_is_nowhere(built: Standin) -> None:
    edit(built, "{tone: 1.0}", "{tone: 0.5}", "chain")
    shutil.rmtree(built.root / ".dvc/cache")
    shutil.rmtree(built.root / "models/chain/artifacts/tone")
    built.must("dvc", "remote", "modify", "--quiet", "store", "url", str(built.beside / "empty"))
    answer = built.call("varietal", "build", "chain:folded")
    assert answer.code == 2, answer.err
    assert "FAILED   chain:folded" in answer.err
    assert "inputs cannot be fetched" in answer.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("meny", "there is no variant meny\n  where: varietal build\n  mend: did you mean many?"),
        ("many:s9", "there is no stage many:s9\n  where: varietal build\n  mend: did you mean many:s3?"),
    ],
)
def test_what_is_not_there(built: Standin, name: str, said: str) -> None:
    answer = built.call("varietal", "build", name)
    assert answer.code == 2
    assert answer.err.startswith(said)


@pytest.mark.slow
def test_stages_that_do_the_very_same_are_done_one_after_the_other(fresh: Standin) -> None:
    twin = (fresh.root / "models/chain/model.yaml").read_text()
    fresh.declare({"twin": twin})
    fresh.tell(seconds="0.5")
    fresh.must("varietal", "build", "chain:tone", "twin:tone", "--jobs", "2")
    assert set(fresh.ran) == {"bases:tiny", "chain:tone", "twin:tone"}
    assert fresh.most_at_once() == 1
