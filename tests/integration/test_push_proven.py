"""What a build of a request sends as its stages end: proven, whatever strangers have laid there before."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from builder.drive.errand import Errand, errand_of
from builder.drive.push import push_stages
from builder.edges import Address
from registry.errors import DeniedError, DigestMismatchError, InvalidError
from registry.lock import Lock
from registry.record import artifact_record
from registry.remote_files import RemoteFiles
from tests.forge import Forge, write_built
from tests.keys import make_key, public_line
from tests.repositories import git

if TYPE_CHECKING:
    from pathlib import Path

TONE, FINAL = (Address(variant="support", stage=stage) for stage in ("tone", "final"))


@pytest.fixture
def forge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forge:
    monkeypatch.setenv("VARIETAL_STORE", str(tmp_path / "content"))
    return Forge.make(tmp_path)


def built(forge: Forge) -> Errand:
    """A request whose two stages have ended."""
    forge.ask({"data/x.jsonl": "{}\n"})
    assembled = forge.assemble()
    write_built(assembled.root, "support", {"tone": b"one", "final": b"two"})
    return replace(errand_of(assembled.root, assembled), remote="quarantine")


def push(errand: Errand, *addresses: Address) -> tuple[int, list[str]]:
    said: list[str] = []
    return push_stages(errand, addresses, since_s=time.time(), say=said.append), said


def signing(errand: Errand, key: Path) -> Errand:
    """With the runner's setting that says so."""
    (errand.home / ".varietal/runner.yaml").write_text(f"progress_key: {key}\n")
    return replace(errand, signs=True)


def objects(place: Path) -> dict[str, bytes]:
    """What lies on a remote that is a folder."""
    root = place / "files/md5"
    return {path.parent.name + path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def lay(place: Path, oid: str, data: bytes) -> None:
    path = place / "files/md5" / oid[:2] / oid[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def cached(errand: Errand) -> dict[str, bytes]:
    return objects(errand.home / ".dvc/cache")


def test_junk_that_was_there_first_is_replaced_and_keeps_nobody_out(forge: Forge) -> None:
    """Some of the size that it should have, some under the names of listings and records."""
    errand, place = built(forge), forge.runner.parent / "quarantine"
    for oid, data in cached(errand).items():
        lay(place, oid, bytes(len(data)))
    moved, said = push(errand, TONE, FINAL)
    assert objects(place) == cached(errand)
    assert moved == len(cached(errand))
    assert "remote 'quarantine' has other bytes than model.safetensors: they are replaced" in said

    # What was sent is known: neither the next push nor the publisher on this machine reads it back.
    for oid in cached(errand):
        lay(place, oid, b"junk")
    assert push(errand, TONE, FINAL)[0] == 0
    git(forge.runner, "fetch", "--quiet", "origin")
    done = forge.call("publish", "--request", "origin/wish", "--json")
    assert (done.returncode, json.loads(done.stdout)["moved_bytes"]) == (0, 0), done.stderr


def test_bytes_go_where_the_runner_says_not_the_tree(forge: Forge, tmp_path: Path) -> None:
    """What was sent is noted at the runner: a stage that names another place would have it believed of this one."""
    errand, place = built(forge), forge.runner.parent / "quarantine"
    junk = dict.fromkeys(cached(errand), b"junk")
    for oid, data in junk.items():
        lay(place, oid, data)
    for name in (".dvc/config", ".dvc/config.local"):
        text = (errand.root / name).read_text()
        (errand.root / name).write_text(text.replace(str(place), str(tmp_path / "stolen")))
    with (errand.root / ".dvc/config.local").open("a") as stream:
        stream.write(f"['remote \"other\"']\n    url = {tmp_path / 'stolen'}\n")
    push(errand, TONE, FINAL)
    assert objects(place) == cached(errand)
    assert not (tmp_path / "stolen").exists()


def test_what_another_runner_sent_is_read_back_and_left(forge: Forge) -> None:
    errand, place = built(forge), forge.runner.parent / "quarantine"
    push(errand, TONE)
    shutil.rmtree(errand.home / ".varietal/sent")
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    assert push(errand, TONE)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_was_released_stays_where_it_is(forge: Forge) -> None:
    errand, place = built(forge), forge.runner.parent
    push(errand, TONE)
    shutil.move(place / "quarantine/files", place / "store/files")
    shutil.rmtree(errand.home / ".varietal/sent")
    push(errand, TONE, FINAL)
    assert not objects(place / "store").keys() >= cached(errand).keys()
    lock = Lock.parse((errand.root / "models/support/dvc.lock").read_bytes(), where="")
    sent = objects(place / "quarantine")
    assert lock.output("models/support/artifacts/final").md5 in sent
    assert lock.output("models/support/artifacts/tone").md5 not in sent


def test_what_is_not_as_its_record_says_does_not_go_and_the_rest_does(forge: Forge) -> None:
    errand, place = built(forge), forge.runner.parent / "quarantine"
    (wrong,) = (oid for oid, data in cached(errand).items() if b"one" in data and b'"w"' in data)
    lay(errand.home / ".dvc/cache", wrong, b"junk")
    with pytest.raises(DigestMismatchError, match=r"model\.safetensors has sha256:"):
        push(errand, TONE, FINAL)
    lock = Lock.parse((errand.root / "models/support/dvc.lock").read_bytes(), where="")
    assert lock.output("models/support/artifacts/final").md5 in objects(place)
    assert lock.output("models/support/artifacts/tone").md5 not in objects(place)
    assert b"junk" not in objects(place).values()


def test_a_record_of_another_stage_does_not_go(forge: Forge) -> None:
    """A stage that was taken over could have put it into the lock."""
    errand = built(forge)
    path = errand.root / "models/support/dvc.lock"
    lock = Lock.parse(path.read_bytes(), where="")
    tone, final = (lock.output(str(artifact_record("support", stage))).md5 for stage in ("tone", "final"))
    path.write_text(path.read_text().replace(tone, final))
    with pytest.raises(InvalidError, match="this is the record of support:final"):
        push(errand, TONE)


def test_notes_of_what_is_new_alone(forge: Forge, tmp_path: Path) -> None:
    """What the tree's own commit records already, another machine finds there."""
    keys = {name: make_key(tmp_path, name) for name in ("one", "two")}
    errand = signing(built(forge), keys["one"])
    assert public_line(keys["one"]) != public_line(keys["two"])
    push(errand, TONE)
    notes = tmp_path / "quarantine/varietal/progress_notes/requests" / errand.commits[0]
    assert len([*notes.iterdir()]) == 1
    push(errand, FINAL)
    assert len([*notes.iterdir()]) == 2
    done = forge.call("publish", "--request", "origin/wish")
    assert done.returncode == 0, done.stderr
    assert len([*notes.iterdir()]) == 2  # main names no runner: nobody looks for any, nobody removes any
    shutil.rmtree(notes)
    forge.fetch()
    assembled = forge.assemble("origin/wish")
    later = replace(errand_of(assembled.root, assembled), remote="quarantine", signs=True)
    write_built(assembled.root, "support", {"tone": b"one", "final": b"another"})
    push(later, TONE, FINAL)
    notes = notes.with_name(later.commits[0])
    (note,) = notes.iterdir()
    payload = json.loads(json.loads(note.read_bytes())["payload"])
    assert json.loads(payload["record"])["stage"] == ["support", "final"]
    assert payload["commit"] == later.commits[0]


def test_settings_that_break_during_a_build_cost_the_notes_alone(forge: Forge, tmp_path: Path) -> None:
    errand = signing(built(forge), make_key(tmp_path, "one"))
    (errand.home / ".varietal/runner.yaml").write_text("progress_key: [\n")
    moved, said = push(errand, TONE)
    assert moved > 0
    assert any(line.startswith("no progress note: ") for line in said)
    assert not (tmp_path / "quarantine/varietal").exists()


def test_notes_go_when_git_has_what_they_say(forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key(tmp_path, "gpu")
    rule = f"runners: {{requests: {{gpu-1: {public_line(key)}}}}}\n"
    forge.main({"params.yaml": (forge.runner / "params.yaml").read_text() + rule})
    git(forge.author, "pull", "--quiet", "origin", "main")
    errand = signing(built(forge), key)
    push(errand, TONE, FINAL)
    notes = tmp_path / "quarantine/varietal/progress_notes/requests" / errand.commits[0]
    assert len([*notes.iterdir()]) == 2

    def refuse(*_: object) -> None:
        raise DeniedError("no", where="quarantine", mend="")

    call = ("publish", "--request", errand.commits[0], "--branch", "wish")
    with monkeypatch.context() as patch:  # whoever publishes elsewhere may only read there
        patch.setattr(RemoteFiles, "remove_folder", refuse)
        done = forge.call(*call)
    assert done.returncode == 0, done.stderr
    assert f"progress notes of commit {errand.commits[0][:12]} and before stay: no (quarantine)" in done.stderr
    assert notes.exists()
    assert forge.call(*call).returncode == 0
    assert not notes.exists()
    assert forge.call(*call).returncode == 0
