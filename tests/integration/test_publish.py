"""What runners send, and when: bytes before names, one winner a race, out of quarantine only what is proven."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from builder.edges import Address, DataFile
from builder.request.arrive import bring
from registry.errors import DigestMismatchError
from registry.lock import Lock, content_md5
from registry.store import Store
from tests.forge import MANIFEST, Forge, write_built
from tests.repositories import git

if TYPE_CHECKING:
    from pathlib import Path

    from builder.request.assembled import Assembled

TWO = {"tone": b"one", "final": b"two"}


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge.make(tmp_path)


def build(forge: Forge, request: str = "origin/wish", **stages: bytes) -> Assembled:
    """Assemble a request, and leave behind what a build leaves."""
    assembled = forge.assemble(request)
    write_built(assembled.root, "support", stages or TWO)
    return assembled


def merge(forge: Forge) -> None:
    """Merge the request into main, and check main out at the runner."""
    git(forge.runner, "checkout", "--quiet", "main")
    git(forge.runner, "merge", "--quiet", "--no-ff", "--no-edit", "origin/wish")
    git(forge.runner, "push", "--quiet", "origin", "main")
    git(forge.runner, "fetch", "--quiet", "origin")


def objects(place: Path) -> set[str]:
    """Names of the objects on a local remote."""
    root = place / "files" / "md5"
    return {path.parent.name + path.name for path in root.rglob("*") if path.is_file()} if root.exists() else set()


def dvc(root: Path, *arguments: str) -> str:
    command = (sys.executable, "-P", "-m", "dvc", *arguments)
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_a_request_is_published_merged_and_promoted(forge: Forge) -> None:
    place = forge.runner.parent
    request = forge.ask({"data/x.jsonl": "{}\n"})
    assembled = build(forge)
    done = forge.call("publish", "--request", "origin/wish", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["request"] == request
    assert said["homes"] == ["models/support"]
    assert said["moved"]
    held = objects(place / "quarantine")
    assert len(held) == 2 * 5 - 1  # two artifacts of three files, their listings and records; one file is in both
    assert objects(place / "store") == set()

    # The branch has the request's tree with the runner's files in it; the runner keeps a commit that came from main.
    forge.fetch()
    names = git(forge.runner, "diff", "--name-only", request, "origin/wish").split()
    assert names == ["models/support/dvc.lock", "models/support/records/final.json", "models/support/records/tone.json"]
    assert git(forge.runner, "rev-parse", "origin/wish^").strip() == request
    built = git(forge.runner, "rev-parse", "origin/varietal/built/wish").strip()
    assert built == said["built"]
    assert not forge.repository.is_ancestor(request, built)
    assert forge.repository.is_ancestor("origin/main", built)

    # Once more changes nothing; the published commit, assembled anew, is what it should be.
    again = forge.call("publish", "--request", request, "--branch", "wish", "--json")
    assert (again.returncode, json.loads(again.stdout)["moved"]) == (0, False), again.stderr
    later = forge.assemble("origin/wish")
    assert later.built == built
    lock = "models/support/dvc.lock"
    assert (later.root / lock).read_bytes() == (assembled.root / lock).read_bytes()
    assert "not what a runner wrote" not in forge.call("gate", "--request", "origin/wish").stdout

    # On merge: content first, by sha256, and then once more for nothing.
    merge(forge)
    done = forge.call("publish", "--promote", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stages"] == ["support:tone", "support:final"]
    assert objects(place / "store") == held
    done = forge.call("publish", "--promote", "--json")
    said = json.loads(done.stdout)
    assert said == {"commit": forge.repository.head(), "stages": [], "moved_bytes": 0, "retired": []}
    fresh = place / "fresh"
    git(place, "clone", "--quiet", str(forge.origin), "fresh")
    dvc(fresh, "pull", "--quiet", "models/support/dvc.yaml:final")
    assert (fresh / "models/support/artifacts/final/config.json").read_text() == "{}"


def test_the_runner_that_was_second_changes_nothing_and_plans_again(forge: Forge) -> None:
    place = forge.runner.parent
    forge.ask({"data/x.jsonl": "{}\n"})
    git(place, "clone", "--quiet", str(forge.origin), "other")
    other = Forge(origin=forge.origin, runner=place / "other", author=forge.author)
    other.fetch()
    build(forge, tone=b"one", final=b"two")
    build(other, tone=b"one", final=b"another")
    assert forge.call("publish", "--request", "origin/wish").returncode == 0
    before = git(forge.origin, "for-each-ref")
    done = other.call("publish", "--request", "origin/wish")
    assert done.returncode == 5
    assert "wish has moved at the origin since" in done.stderr
    assert "another runner or a new commit was first, and nothing was pushed: fetch, then plan again" in done.stderr
    assert git(forge.origin, "for-each-ref") == before

    other.fetch()
    assembled = other.assemble("origin/wish")
    assert assembled.built
    record = json.loads((assembled.root / "models/support/records/final.json").read_text())
    assert (
        content_md5((assembled.root / "models/support/records/final.json").read_bytes())
        in (assembled.root / "models/support/dvc.lock").read_text()
    )
    assert record["schema"] == "varietal/record/1"
    done = other.call("publish", "--request", "origin/wish", "--json")
    assert (done.returncode, json.loads(done.stdout)["moved"]) == (0, False), done.stderr


def test_a_new_commit_of_the_author_keeps_what_was_built(forge: Forge) -> None:
    forge.ask({"data/x.jsonl": "{}\n"})
    build(forge)
    assert forge.call("publish", "--request", "origin/wish").returncode == 0
    git(forge.author, "pull", "--quiet", "origin", "wish")
    forge.ask({"data/y.jsonl": "{}\n"})
    assembled = forge.assemble()
    assert assembled.built
    assert {"models/support/dvc.lock", "data/y.jsonl"} <= set(git(assembled.root, "ls-files").split())
    assert forge.repository.is_ancestor("origin/main", assembled.main)


def test_main_has_the_word_where_it_built_the_same_variant_since(forge: Forge) -> None:
    forge.ask({"data/x.jsonl": "{}\n"})
    build(forge)
    assert forge.call("publish", "--request", "origin/wish").returncode == 0
    seed = forge.runner.parent / "seed"
    write_built(seed, "support", {"tone": b"mains", "final": b"own"})
    path = "models/support/records/final.json"
    mains = {one: (seed / one).read_bytes() for one in (path, path.replace("final", "tone"), "models/support/dvc.lock")}
    forge.main(mains)
    assert (forge.assemble().root / path).read_bytes() == mains[path]


def test_a_fork_gets_a_branch_at_the_origin(forge: Forge) -> None:
    """The runner may not write to the fork; the branch follows the fork's later commits."""
    git(forge.author, "commit", "--quiet", "--allow-empty", "-m", "First")
    git(forge.author, "push", "--quiet", "origin", "HEAD:refs/pull/7/head")
    git(forge.runner, "fetch", "--quiet", "origin", "+refs/pull/7/head:refs/pull/7/head")
    for number, content in enumerate((b"two", b"three")):
        build(forge, "refs/pull/7/head", tone=b"one", final=content)
        done = forge.call("publish", "--request", "refs/pull/7/head")
        assert (done.returncode, number, "does not say which branch" in done.stderr) == (4, number, True)
        done = forge.call("publish", "--request", "refs/pull/7/head", "--branch", "varietal/pull-7")
        assert done.returncode == 0, done.stderr
        forge.fetch()
        git(forge.author, "commit", "--quiet", "--allow-empty", "-m", "Second")
        git(forge.author, "push", "--quiet", "origin", "HEAD:refs/pull/7/head")
        git(forge.runner, "fetch", "--quiet", "origin", "+refs/pull/7/head:refs/pull/7/head")
    assert git(forge.runner, "log", "--format=%s", "origin/varietal/pull-7", "-2").split("\n")[:2] == [
        "Build support",
        "Second",
    ]


def test_what_does_not_fit_together_is_not_published(forge: Forge) -> None:
    place = forge.runner.parent
    forge.ask({"data/x.jsonl": "{}\n"})
    assembled = build(forge)
    record = assembled.root / "models/support/records/final.json"
    honest = record.read_bytes()
    record.write_bytes(honest.replace(b'"duration_s"', b'"duration_s" '))
    done = forge.call("publish", "--request", "origin/wish")
    assert (done.returncode, "final.json is not the record that was built" in done.stderr) == (1, True)
    record.write_bytes(honest)
    (assembled.root / "data/talks.jsonl").write_text("{}\n")
    done = forge.call("publish", "--request", "origin/wish")
    assert (done.returncode, "not committed: data/talks.jsonl" in done.stderr) == (1, True)
    git(assembled.root, "checkout", "--quiet", "--", "data/talks.jsonl")

    # A cache that was written to, which DVC itself would push.
    lock = Lock.parse((assembled.root / "models/support/dvc.lock").read_bytes(), where="dvc.lock")
    oid = lock.output("models/support/artifacts/final").md5
    cache = forge.runner / ".dvc/cache/files/md5"
    listing = json.loads((cache / oid[:2] / oid[2:]).read_text())
    weights = next(one["md5"] for one in listing if one["relpath"] == "model.safetensors")
    path = cache / weights[:2] / weights[2:]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    done = forge.call("publish", "--request", "origin/wish")
    assert (done.returncode, "model.safetensors has sha256:" in done.stderr) == (3, True)
    assert oid not in objects(place / "quarantine")
    assert git(forge.origin, "for-each-ref", "refs/heads/varietal").strip() == ""


def test_without_a_quarantine_a_request_says_where(forge: Forge) -> None:
    place = forge.runner.parent
    config = (forge.author / ".dvc/config").read_text().partition("['remote \"quarantine")[0]
    forge.main({".dvc/config": config})
    git(forge.runner, "pull", "--quiet")  # remotes are those that the runner has checked out
    forge.ask({"data/x.jsonl": "{}\n"})
    build(forge)
    done = forge.call("publish", "--request", "origin/wish")
    assert (done.returncode, "there is no DVC remote named quarantine" in done.stderr) == (1, True)
    done = forge.call("publish", "--request", "origin/wish", "--remote", "nowhere")
    assert (done.returncode, "there is no remote 'nowhere'" in done.stderr) == (2, True)
    done = forge.call("publish", "--request", "origin/wish", "--remote", "store")
    assert done.returncode == 0, done.stderr
    assert objects(place / "store")
    git(forge.runner, "pull", "--quiet")
    done = forge.call("publish", "--promote")
    assert (done.returncode, done.stdout) == (0, "nothing to promote\n"), done.stderr


def test_only_main_is_promoted(forge: Forge) -> None:
    git(forge.runner, "checkout", "--quiet", "-b", "try")
    git(forge.runner, "commit", "--quiet", "--allow-empty", "-m", "Mine")
    done = forge.call("publish", "--promote")
    assert (done.returncode, "the commit is not on the main branch" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("flipped", 3, "model.safetensors should have sha256:"),
        ("gone", 2, "there is no such object"),
        ("climbing", 3, "the listing has md5"),
        ("renamed", 3, "it is called"),
    ],
)
def test_what_is_wrong_in_quarantine_stays_there(forge: Forge, kind: str, code: int, words: str) -> None:
    """Whoever may write there has changed an object; the other artifacts are promoted all the same."""
    place = forge.runner.parent
    forge.ask({"data/x.jsonl": "{}\n"})
    assembled = build(forge)
    assert forge.call("publish", "--request", "origin/wish").returncode == 0
    forge.fetch()
    merge(forge)
    lock = Lock.parse((assembled.root / "models/support/dvc.lock").read_bytes(), where="dvc.lock")
    oid = lock.output("models/support/artifacts/final").md5
    root = place / "quarantine/files/md5"
    listing = root / oid[:2] / oid[2:]
    entries = json.loads(listing.read_text())
    weights = next(one for one in entries if one["relpath"] == "model.safetensors")
    path = root / weights["md5"][:2] / weights["md5"][2:]
    listing.chmod(0o644)
    path.chmod(0o644)
    if kind == "flipped":
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    elif kind == "gone":
        path.unlink()
    elif kind == "climbing":
        listing.write_text(json.dumps([*entries, {"md5": weights["md5"], "relpath": "../../../.git/hooks/pre-push"}]))
    else:  # the right bytes under a name that is another file's, and a lock of main that says so
        forge.runner.joinpath("models/support/dvc.lock").write_text(rename(forge, root, entries, oid))
        git(forge.runner, "commit", "--quiet", "--all", "-m", "Rename")
        git(forge.runner, "push", "--quiet", "origin", "main")
        git(forge.runner, "fetch", "--quiet", "origin")
    done = forge.call("publish", "--promote")
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    there = objects(place / "store")
    assert lock.output("models/support/artifacts/tone").md5 in there
    assert not {oid} & there
    assert weights["md5"] not in there or kind == "climbing"


def rename(forge: Forge, root: Path, entries: list[dict[str, str]], oid: str) -> str:
    """A lock whose listing names the weights by the md5 of something else."""
    squatted = content_md5(b"what someone will push tomorrow")
    weights = next(one for one in entries if one["relpath"] == "model.safetensors")
    target = root / squatted[:2] / squatted[2:]
    target.parent.mkdir(exist_ok=True)
    target.write_bytes((root / weights["md5"][:2] / weights["md5"][2:]).read_bytes())
    weights["md5"] = squatted
    data = json.dumps(entries).encode()
    name = f"{content_md5(data)}.dir"
    (root / name[:2]).mkdir(exist_ok=True)
    (root / name[:2] / name[2:]).write_bytes(data)
    return (forge.runner / "models/support/dvc.lock").read_text().replace(oid, name)


def test_a_promotion_that_was_broken_off_goes_on(forge: Forge) -> None:
    place = forge.runner.parent
    forge.ask({"data/x.jsonl": "{}\n"})
    build(forge)
    assert forge.call("publish", "--request", "origin/wish").returncode == 0
    forge.fetch()
    merge(forge)
    assert forge.call("publish", "--promote").returncode == 0
    whole = objects(place / "store")
    for name in sorted(whole):  # as if it had ended after the content of one artifact
        if name.endswith(".dir") or name == min(whole):
            (place / "store/files/md5" / name[:2] / name[2:]).unlink()
    done = forge.call("publish", "--promote", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["stages"]) == 2
    assert objects(place / "store") == whole


def test_a_trusted_branch_is_published_and_the_local_one_follows(forge: Forge) -> None:
    place = forge.runner.parent
    git(forge.runner, "checkout", "--quiet", "-b", "mine")
    write_built(forge.runner, "support", TWO)
    (forge.runner / "models/calm").mkdir()
    (forge.runner / "models/calm/model.yaml").write_text(MANIFEST)
    done = forge.call("publish")
    assert (done.returncode, "not committed: models/calm/model.yaml" in done.stderr) == (1, True)
    (forge.runner / "models/calm/model.yaml").unlink()
    done = forge.call("publish", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["homes"] == ["models/support"]
    assert objects(place / "store")
    assert objects(place / "quarantine") == set()
    assert git(forge.origin, "rev-parse", "mine") == git(forge.runner, "rev-parse", "HEAD")
    assert git(forge.runner, "status", "--porcelain") == ""
    assert git(forge.origin, "for-each-ref", "refs/heads/varietal").strip() == ""
    done = forge.call("publish", "--json")
    assert json.loads(done.stdout)["moved"] is False

    git(place, "clone", "--quiet", "--branch", "mine", str(forge.origin), "other")
    for name, value in {"user.name": "B", "user.email": "b@example.org"}.items():
        git(place / "other", "config", name, value)
    git(place / "other", "commit", "--quiet", "--allow-empty", "-m", "Faster")
    git(place / "other", "push", "--quiet", "origin", "mine")
    write_built(forge.runner, "support", {"tone": b"one", "final": b"three"})
    before = git(forge.origin, "rev-parse", "mine")
    done = forge.call("publish")
    assert (done.returncode, "mine has moved at the origin since" in done.stderr) == (5, True)
    assert git(forge.origin, "rev-parse", "mine") == before
    git(forge.runner, "checkout", "--quiet", "--detach")
    done = forge.call("publish")
    assert (done.returncode, "no branch is checked out" in done.stderr) == (4, True)


def test_an_origin_that_refuses(forge: Forge) -> None:
    forge.ask({"data/x.jsonl": "{}\n"})
    build(forge)
    hook = forge.origin / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho protected >&2; exit 1\n")
    hook.chmod(0o755)
    done = forge.call("publish", "--request", "origin/wish")
    assert (done.returncode, "hook declined" in done.stderr) == (7, True), done.stderr
    git(forge.runner, "remote", "set-url", "origin", str(forge.origin.parent / "nowhere"))
    done = forge.call("publish", "--request", "origin/wish")
    assert done.returncode == 6, done.stderr


def junk(place: Path, oids: set[str]) -> None:
    """Other bytes under the right names, put there by whoever may write to quarantine."""
    for oid in oids:
        path = place / "quarantine/files/md5" / oid[:2] / oid[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(b"junk")


def test_what_lies_in_quarantine_is_not_believed_for_its_name(forge: Forge) -> None:
    place = forge.runner.parent
    request = forge.ask({"data/x.jsonl": "{}\n"})
    build(forge)
    names = objects(forge.runner / ".dvc/cache")
    junk(place, names)
    done = forge.call("publish", "--request", request, "--branch", "wish", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["moved_bytes"] > 0
    assert "has other bytes than model.safetensors: they are replaced" in done.stderr
    assert b"junk" not in {path.read_bytes() for path in (place / "quarantine").rglob("*") if path.is_file()}

    # What this runner wrote is not read back, unless somebody says so: the promotion has found it changed.
    weights = {path.parent.name + path.name for path in (place / "quarantine/files/md5").rglob("*") if path.is_file()}
    junk(place, weights)
    done = forge.call("publish", "--request", request, "--branch", "wish", "--json")
    assert (done.returncode, json.loads(done.stdout)["moved_bytes"]) == (0, 0)
    forge.fetch()
    merge(forge)
    done = forge.call("publish", "--promote")
    assert (done.returncode, "`varietal publish --request COMMIT --prove`" in done.stderr) == (3, True), done.stderr
    done = forge.call("publish", "--request", request, "--branch", "wish", "--prove")
    assert done.returncode == 0, done.stderr
    assert forge.call("publish", "--promote").returncode == 0
    assert forge.call("publish", "--prove").returncode == 4


def test_bytes_that_another_machine_sent_are_proven_where_they_lie(forge: Forge) -> None:
    """The job that publishes has locks and records alone, and no cache."""
    place = forge.runner.parent
    request = forge.ask({"data/x.jsonl": "{}\n"})
    assembled = build(forge)
    assert forge.call("publish", "--request", request, "--branch", "wish").returncode == 0
    git(place, "clone", "--quiet", str(forge.origin), "other")
    other = Forge(origin=forge.origin, runner=place / "other", author=forge.author)
    for key, value in {"user.name": "B", "user.email": "b@example.org"}.items():
        git(other.runner, "config", key, value)
    handed = place / "handed"
    for path in ("models/support/dvc.lock", "models/support/records"):
        (handed / path).parent.mkdir(parents=True, exist_ok=True)
        source = assembled.root / path
        (shutil.copytree if source.is_dir() else shutil.copy)(source, handed / path)
    call = ("publish", "--request", request, "--branch", "again", "--from", str(handed))
    done = other.call(*call)
    assert done.returncode == 0, done.stderr
    assert not (other.runner / ".dvc/cache/files").exists()

    shutil.rmtree(other.runner / ".varietal")
    lock = Lock.parse((handed / "models/support/dvc.lock").read_bytes(), where="dvc.lock")
    listing = lock.output("models/support/artifacts/final").md5
    entries = json.loads((place / "quarantine/files/md5" / listing[:2] / listing[2:]).read_text())
    junk(place, {next(one["md5"] for one in entries if one["relpath"] == "model.safetensors")})
    done = other.call(*call)
    assert (done.returncode, "then `varietal build --push`" in done.stderr) == (2, True), done.stderr


def test_two_files_of_one_md5(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two different files with one md5 are easily made; here a md5 that looks at the first byte stands for that."""
    place = forge.runner.parent
    one, two = b"{}\n", b"{ \n"
    md5 = content_md5(one)
    pointer = f"outs:\n- md5: {md5}\n  size: 3\n  hash: md5\n  path: x.jsonl\n"
    forge.ask({"data/x.jsonl.dvc": pointer})
    root = forge.assemble().root
    store, sources = Store(place / "content"), (DataFile(path="data/x.jsonl", format="text"),)
    real = hashlib.md5

    class Weak:
        def __init__(self) -> None:
            self.first = b""

        def update(self, data: bytes) -> None:
            self.first = self.first or data[:1]

        def hexdigest(self) -> str:
            return md5 if self.first == b"{" else real(self.first).hexdigest()

    monkeypatch.setattr("builder.request.arrive.hashlib", SimpleNamespace(md5=lambda **_: Weak()))

    def put(remote: str, data: bytes) -> None:
        path = place / remote / "files/md5" / md5[:2] / md5[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    cached = forge.runner / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    put("quarantine", one)
    assert bring(root, sources, home=forge.runner, store=store, say=str) == ("data/x.jsonl",)
    put("quarantine", two)
    cached.unlink()
    with pytest.raises(DigestMismatchError, match="has the md5 of a file that is known here, and other bytes"):
        bring(root, sources, home=forge.runner, store=store, say=str)
    assert not cached.exists()

    # Bytes that were in the cache by another way, and are not noted.
    shutil.rmtree(forge.runner / ".dvc/cache/varietal")
    cached.write_bytes(one)
    with pytest.raises(DigestMismatchError, match="has the md5 of a file that is known here, and other bytes"):
        bring(root, sources, home=forge.runner, store=store, say=str)

    # What main has is never brought from where others write.
    cached.unlink()
    put("store", one)
    assert bring(root, sources, home=forge.runner, store=store, say=str) == ()
    assert not cached.exists()


def test_what_only_the_quarantine_has_is_brought_for_a_build(forge: Forge) -> None:
    """Another machine builds the author's next commit: it has neither the artifact nor the data."""
    place = forge.runner.parent
    data = b"{}\n"
    pointer = f"outs:\n- md5: {content_md5(data)}\n  size: {len(data)}\n  hash: md5\n  path: x.jsonl\n"
    forge.ask({"data/x.jsonl.dvc": pointer})
    build(forge)
    assert forge.call("publish", "--request", "origin/wish").returncode == 0
    put = place / "quarantine/files/md5" / content_md5(data)[:2]
    put.mkdir(exist_ok=True)
    (put / content_md5(data)[2:]).write_bytes(b"{ \n")
    shutil.rmtree(forge.runner / ".dvc/cache")
    forge.fetch()
    root = forge.assemble("origin/wish").root
    sources = (Address(variant="support", stage="final"), DataFile(path="data/x.jsonl", format="text"))
    store = Store(place / "content")
    (root / ".varietal/request.json").unlink()  # a stage could: what the tree says of itself is not asked
    with pytest.raises(DigestMismatchError, match=r"data/x\.jsonl has other bytes than its \.dvc file says"):
        bring(root, sources, home=forge.runner, store=store, say=str)
    (put / content_md5(data)[2:]).write_bytes(data)
    assert bring(root, sources, home=forge.runner, store=store, say=str) == ("data/x.jsonl",)
    assert bring(root, sources, home=forge.runner, store=store, say=str) == ()
    for target in ("models/support/dvc.yaml:final", "data/x.jsonl.dvc"):
        dvc(root, "checkout", "--quiet", target)
    assert (root / "data/x.jsonl").read_bytes() == data
    assert (root / "models/support/artifacts/final/config.json").read_text() == "{}"
