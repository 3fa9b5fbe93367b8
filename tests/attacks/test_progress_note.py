"""Progress notes on a remote that strangers may write to: what forged, stolen and broken ones gain, which is nothing.

Each note is laid where the true one was. It must be told in a line, and leave the stage to be computed.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from builder.drive import recall as recalling
from builder.drive.errand import Errand, errand_of
from builder.drive.noting import leave_notes
from builder.drive.recall import noted_commits, recall
from builder.edges import Address
from builder.graph import build_graph
from builder.load import load
from builder.request.goods import Goods
from builder.work import open_work
from registry.artifact import Artifact
from registry.canonical import encode
from registry.envelope import seal
from registry.lock import content_md5
from registry.progress_note import MAX_NOTE_BYTES, NAMESPACE, ProgressNote, Scope, note_path, seal_note
from registry.remote_files import RemoteFiles
from registry.store import Store
from tests.forge import MANIFEST, Forge, write_built
from tests.keys import make_key, public_line
from tests.repositories import git, make_artifact, make_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.request.assembled import Assembled
    from registry.record import Record

TONE = Address(variant="calm", stage="tone")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A request whose first stage a runner has finished; its bytes and its note are in quarantine, and nowhere else.

    Attributes:
        forge: The places.
        assembled: The request's tree.
        keys: Of ``gpu-1``, who may build requests, ``gpu-main``, who may build branches, and ``eve``.
        errand: What looks for notes.
        record: Of the stage.
        listing_oid: Of its folder.
    """

    forge: Forge
    assembled: Assembled
    keys: dict[str, Path]
    errand: Errand
    record: Record
    listing_oid: str

    @property
    def quarantine(self) -> Path:
        return self.forge.runner.parent / "quarantine"

    @property
    def note(self) -> ProgressNote:
        """The true one."""
        return ProgressNote(scope=self.errand.scopes[0], record=self.record, listing_oid=self.listing_oid)

    @property
    def place(self) -> Path:
        """Where it is looked for."""
        return self.quarantine / note_path(self.errand.scopes[0], self.record.action.digest)

    def object(self, oid: str) -> Path:
        return self.quarantine / "files/md5" / oid[:2] / oid[2:]

    def file(self, name: str) -> Path:
        """The object of a file of the artifact."""
        entries = json.loads(self.object(self.listing_oid).read_text())
        return self.object(next(one["md5"] for one in entries if one["relpath"] == name))

    def try_it(self, store: Path, errand: Errand | None = None) -> tuple[bool, list[str]]:
        """Look for a note; whether the stage has nothing to compute, and what was said."""
        said: list[str] = []
        done = recall(errand or self.errand, TONE, store=Store(store), say=said.append)
        with open_work(self.errand.root, self.record.action.digest) as work:
            finished = work.finished()
            assert (finished is not None) == done
            if finished is not None:
                assert finished[1] == self.record
            work.remove()
        return done, said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    place = tmp_path_factory.mktemp("noted")
    forge = Forge.make(place)
    keys = {name: make_key(place, name) for name in ("gpu-1", "gpu-main", "eve")}
    rules = {kind: {name: public_line(keys[name])} for kind, name in (("requests", "gpu-1"), ("branches", "gpu-main"))}
    forge.main({"params.yaml": (forge.runner / "params.yaml").read_text() + f"runners: {json.dumps(rules)}\n"})
    git(forge.author, "pull", "--quiet", "origin", "main")
    forge.ask({"models/calm/model.yaml": MANIFEST})
    forge.ask({"data/more.jsonl": "{}\n"})
    assembled = forge.assemble()
    root = assembled.root
    write_built(root, "bases", {"tiny": b"base"})
    action = recalling._action(root, build_graph(load(root))[TONE])
    assert action is not None
    folder = place / "made"
    make_artifact(folder, {"w": b"tuned"}, "adapter")
    (folder / "config.json").write_text('{"of": "this stage alone"}')  # else the cache would have it
    artifact = Artifact.from_folder(folder, "adapter")
    artifact.write(folder)
    record = replace(make_record(str(TONE), artifact), action=action)
    objects = place / "quarantine/files/md5"

    def put(data: bytes, suffix: str = "") -> str:
        oid = content_md5(data) + suffix
        (objects / oid[:2]).mkdir(parents=True, exist_ok=True)
        (objects / oid[:2] / oid[2:]).write_bytes(data)
        return oid

    entries = [{"md5": put(path.read_bytes()), "relpath": path.name} for path in sorted(folder.iterdir())]
    listing_oid = put(json.dumps(entries).encode(), ".dir")
    errand = replace(errand_of(root, assembled), remote="quarantine", signs=True)
    (forge.runner / ".varietal/runner.yaml").write_text(f"progress_key: {keys['gpu-1']}\n")
    goods = Goods(record=record, record_data=record.to_bytes(), listing_oid=listing_oid, data=())
    assert leave_notes(errand, [goods], RemoteFiles(root, "quarantine"), pytest.fail) == 1
    shutil.copytree(place / "quarantine", place / "pristine")
    return Scene(
        forge=forge,
        assembled=assembled,
        keys=keys,
        errand=replace(errand, signs=False),
        record=record,
        listing_oid=listing_oid,
    )


@pytest.fixture
def scene(made: Scene) -> Iterator[Scene]:
    """Put back to what it was, after each test."""
    yield made
    shutil.rmtree(made.quarantine)
    shutil.copytree(made.quarantine.with_name("pristine"), made.quarantine)
    shutil.rmtree(made.forge.runner / ".varietal/sent", ignore_errors=True)


def test_a_note_that_holds_is_gone_on_from(scene: Scene, tmp_path: Path) -> None:
    done, said = scene.try_it(tmp_path)
    assert done
    assert said == [
        f"gpu-1 finished this in another build of commit {scene.assembled.request[:12]}; nothing is computed"
    ]
    assert noted_commits(scene.errand) == (scene.assembled.request,)
    sent = (scene.forge.runner / ".varietal/sent/quarantine").read_text().split()
    assert scene.listing_oid in sent  # it was read there and proven: who publishes need not do so again


def test_what_this_machine_finished_is_not_said_to_be_another_s(scene: Scene, tmp_path: Path) -> None:
    said: list[str] = []
    errand, store = scene.errand, Store(tmp_path)
    assert recall(errand, TONE, store=store, say=lambda _: None)
    assert recall(errand, TONE, store=store, say=said.append)
    assert said == ["this machine finished this before; nothing is computed"]
    with open_work(errand.root, scene.record.action.digest) as work:
        work.remove()


def test_the_remote_of_a_tree_is_not_asked_for_notes(scene: Scene, tmp_path: Path) -> None:
    """A stage that was taken over could name a place where its own bytes lie."""
    texts = {path: path.read_text() for path in (scene.errand.root / ".dvc").glob("config*")}
    try:
        for path, text in texts.items():
            path.write_text(text.replace(str(scene.quarantine), str(tmp_path / "own")))
        with (scene.errand.root / ".dvc/config.local").open("a") as stream:
            stream.write(f"['remote \"quarantine\"']\n    url = {tmp_path / 'own'}\n")
        assert noted_commits(scene.errand) == (scene.assembled.request,)
        assert scene.try_it(tmp_path / "store")[0]
    finally:
        for path, text in texts.items():
            path.write_text(text)


def test_a_pipe_in_the_place_of_a_note_does_not_hang(scene: Scene, tmp_path: Path) -> None:
    for make in (os.mkfifo, os.mkdir):
        scene.place.unlink(missing_ok=True)
        make(scene.place)
        done, said = scene.try_it(tmp_path)
        assert not done
        assert "is no plain file" in said[0]
        if make is os.mkfifo:
            scene.place.unlink()


def test_where_the_key_lies_is_on_no_command_line(scene: Scene) -> None:
    assert str(scene.keys["gpu-1"]) not in replace(scene.errand, signs=True).to_text()


def test_an_earlier_state_of_the_request_counts(scene: Scene, tmp_path: Path) -> None:
    before = scene.errand.scopes[1]
    scene.place.unlink()
    write(scene, seal_note(replace(scene.note, scope=before), scene.keys["gpu-1"]), scope=before)
    assert scene.try_it(tmp_path)[0]


def write(scene: Scene, data: bytes, scope: Scope | None = None) -> None:
    path = scene.quarantine / note_path(scope or scene.errand.scopes[0], scene.record.action.digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def signed(scene: Scene, **changes: object) -> bytes:
    """What the believed runner itself has signed, with other keys in it."""
    payload = json.loads(scene.note.to_bytes()) | changes
    return seal(encode(payload), [scene.keys["gpu-1"]], namespace=NAMESPACE)


def edited(scene: Scene, edit: Callable[[dict[str, object]], None]) -> bytes:
    """The true file, with something changed after it was signed."""
    document = json.loads(scene.place.read_bytes())
    edit(document)
    return json.dumps(document).encode()


def other_action(scene: Scene) -> bytes:
    """A true note on another stage, under the name of this one."""
    action = replace(scene.record.action, recipe=99)
    return seal_note(replace(scene.note, record=replace(scene.record, action=action)), scene.keys["gpu-1"])


def other_artifact(scene: Scene) -> bytes:
    """The payload of eve's own record, below the true signature."""
    record = replace(scene.record, metrics={"accuracy": {"value": 1.0}})
    payload = replace(scene.note, record=record).to_bytes().decode()
    return edited(scene, lambda document: document.update(payload=payload))


def claimed(scene: Scene) -> bytes:
    """Eve's signature, said to be of the believed runner."""
    true = json.loads(scene.place.read_bytes())["signatures"][0]["key"]
    document = json.loads(seal_note(scene.note, scene.keys["eve"]))
    document["signatures"][0]["key"] = true
    return json.dumps(document).encode()


FORGED: dict[str, tuple[Callable[[Scene], bytes], str]] = {
    "nothing": (lambda _: b"", "not strict JSON"),
    "junk": (lambda _: b"\xff\x00junk", "not strict JSON"),
    "truncated": (lambda scene: scene.place.read_bytes()[:-40], "not strict JSON"),
    "too big": (lambda scene: scene.place.read_bytes() + b" " * MAX_NOTE_BYTES, "has more than"),
    "deep": (lambda _: b"[" * 100_000 + b"]" * 100_000, "nested deeper than"),
    "no envelope": (lambda scene: scene.note.to_bytes(), "unknown key"),
    "many signatures": (
        lambda scene: edited(scene, lambda one: one.update(signatures=[*one["signatures"]] * 17)),  # type: ignore[misc]
        "17 signatures",
    ),
    "nobody": (lambda scene: edited(scene, lambda one: one.update(signatures=[])), "nobody did"),
    "a foreign key": (lambda scene: seal_note(scene.note, scene.keys["eve"]), "no trusted key signed this"),
    "a foreign key that speaks": (
        lambda scene: edited(
            scene,
            lambda one: one["signatures"][0].update(key="x\n\x1b[2Jrow:first: gpu-1 finished this"),  # type: ignore[index]
        ),
        "no trusted key signed this; x",
    ),
    "a foreign key, renamed": (claimed, "does not hold"),
    "changed after it was signed": (other_artifact, "does not hold"),
    "a runner of branches": (lambda scene: seal_note(scene.note, scene.keys["gpu-main"]), "no trusted key signed this"),
    "signed as a descriptor": (
        lambda scene: seal(scene.note.to_bytes(), [scene.keys["gpu-1"]]),
        "does not hold",
    ),
    "signed as git's": (
        lambda scene: seal(scene.note.to_bytes(), [scene.keys["gpu-1"]], namespace="git"),
        "does not hold",
    ),
    "another action": (other_action, "this is a note on sha256:"),
    "another action of the record": (
        lambda scene: signed(scene, record=json.loads(other_payload(scene))["record"]),
        "this is a note on sha256:",
    ),
    "another request": (lambda scene: signed(scene, commit="0" * 40), "this is a note on requests of 000000"),
    "a branch of that name": (lambda scene: signed(scene, kind="branches"), "this is a note on branches of"),
    "another schema": (lambda scene: signed(scene, schema="varietal/progress/2"), "schema: expected"),
    "another key": (lambda scene: signed(scene, more=1), "more: expected"),
    "no listing": (lambda scene: signed(scene, listing="../../etc/passwd"), "no name of a folder's listing"),
    "no record": (lambda scene: signed(scene, record="{}"), "expected a value, got nothing"),
    "a record written otherwise": (
        lambda scene: signed(scene, record=encode(json.loads(scene.record.to_bytes())).decode()),
        "not written as records are",
    ),
    "a record that contradicts itself": (
        lambda scene: signed(
            scene,
            record=scene.record.to_bytes().decode().replace(str(scene.record.artifact.digest), f"sha256:{'0' * 64}"),
        ),
        "artifact digest is not the digest of its files",
    ),
}


def other_payload(scene: Scene) -> bytes:
    """A true note's payload on another action."""
    action = replace(scene.record.action, recipe=99)
    return replace(scene.note, record=replace(scene.record, action=action)).to_bytes()


@pytest.mark.parametrize("kind", FORGED)
def test_a_note_that_does_not_hold_is_told_and_the_stage_is_run(scene: Scene, tmp_path: Path, kind: str) -> None:
    forge, said_of_it = FORGED[kind]
    write(scene, forge(scene))
    done, said = scene.try_it(tmp_path)
    assert not done
    (line,) = said
    assert line.startswith("a progress note is not believed: ")
    assert said_of_it in line
    assert "\n" not in line


def test_a_note_of_another_request_is_not_even_looked_at(scene: Scene, tmp_path: Path) -> None:
    """However true it is: a build of another request may have been taken over."""
    elsewhere = Scope(kind="requests", commit="1" * 40)
    scene.place.unlink()
    write(scene, seal_note(replace(scene.note, scope=elsewhere), scene.keys["gpu-1"]), scope=elsewhere)
    assert scene.try_it(tmp_path) == (False, [])


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def climb(scene: Scene) -> None:
    """A listing that leads out of the folder, under its own right name, and a believed note that names it."""
    entries = json.loads(scene.object(scene.listing_oid).read_text())
    data = json.dumps([{**one, "relpath": f"../{one['relpath']}"} for one in entries]).encode()
    oid = f"{content_md5(data)}.dir"
    scene.object(oid).parent.mkdir(exist_ok=True)
    scene.object(oid).write_bytes(data)
    write(scene, signed(scene, listing=oid))


SPOILT: dict[str, tuple[Callable[[Scene], object], str]] = {
    "a flipped byte": (lambda scene: flip(scene.file("model.safetensors")), "model.safetensors"),
    "a flipped byte of the listing of tensors": (lambda scene: flip(scene.file("artifact.json")), "artifact.json"),
    "a missing file": (lambda scene: scene.file("config.json").unlink(), "there is no such object"),
    "no listing": (lambda scene: scene.object(scene.listing_oid).unlink(), "there is no such object"),
    "another listing": (lambda scene: flip(scene.object(scene.listing_oid)), "the listing has md5"),
    "a listing that climbs": (climb, "../"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_bytes_that_are_not_those_of_the_record_are_not_taken(scene: Scene, tmp_path: Path, kind: str) -> None:
    spoil, said_of_it = SPOILT[kind]
    spoil(scene)
    done, said = scene.try_it(tmp_path)
    assert not done
    (line,) = said
    assert line.startswith("what gpu-1 finished cannot be had: ")
    assert said_of_it in line
    assert not (scene.forge.runner / ".varietal/sent").exists()


def test_a_key_that_leaves_the_rule_is_believed_no_more(scene: Scene, tmp_path: Path) -> None:
    """The rule is main's of today; it is asked of the runner's own repository, not of the tree."""
    git(scene.forge.runner, "update-ref", "refs/remotes/origin/main", "origin/main~1")
    try:
        done, said = scene.try_it(tmp_path)
    finally:
        scene.forge.fetch()
    assert not done
    assert "no trusted key signed this" in said[0]


def test_a_request_cannot_say_who_is_believed(scene: Scene, tmp_path: Path) -> None:
    rules = {"requests": {"eve": public_line(scene.keys["eve"])}}
    params = scene.forge.author / "params.yaml"
    before = params.read_text()
    text = "".join(line for line in before.splitlines(keepends=True) if not line.startswith("runners:"))
    try:
        commit = scene.forge.ask({"params.yaml": f"{text}runners: {json.dumps(rules)}\n"})
        assembled = scene.forge.assemble(commit)
        assert "params.yaml: runners" in assembled.left
        errand = replace(errand_of(assembled.root, assembled), remote="quarantine")
        write_built(assembled.root, "bases", {"tiny": b"base"})
        scope = errand.scopes[0]
        write(scene, seal_note(replace(scene.note, scope=scope), scene.keys["eve"]), scope=scope)
        scene.place.unlink()
        said: list[str] = []
        assert not recall(errand, TONE, store=Store(tmp_path), say=said.append)
        assert "no trusted key signed this" in said[0]
    finally:
        scene.forge.ask({"params.yaml": before})


def test_what_the_tree_says_of_its_request_is_not_what_is_signed(scene: Scene) -> None:
    """A stage could write it: a note of this build under another request's name would be believed there."""
    state = scene.assembled.root / ".varietal/request.json"
    before = state.read_text()
    try:
        state.write_text(before.replace(scene.assembled.request, "1" * 40))
        errand = errand_of(scene.assembled.root, scene.assembled)
        assert errand.commits[0] == scene.assembled.request
        assert Errand.from_text(errand.to_text()) == errand
        assert errand_of(scene.assembled.root, None).commits == ()  # built by hand in there: nothing is signed
    finally:
        state.write_text(before)
