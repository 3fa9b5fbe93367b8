"""A remote that lies, one fault each: no folder is shown, and the message says what and where."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from registry import transfer
from registry.digest import digest_bytes
from registry.errors import ConflictError, DigestMismatchError, Error, InvalidError, NotFoundError, TransportError
from registry.pull import fetch
from registry.store import Store
from registry.target import folder_beside, holds, show
from tests.simulator import Simulator, make_artifact, make_record, md5

if TYPE_CHECKING:
    from pathlib import Path

    from registry.pull import PullReport
    from registry.record import Record

REFUSED = "do not use this object; push the artifact again from where it was built, or use another remote"
NOT_KEPT = "nothing of it was kept; push the artifact again from where it was built, or use another remote"
FILE = "model-1.safetensors"


@dataclass(frozen=True, kw_only=True)
class Scene:
    built: Path
    record: Record
    remote: Simulator
    listing: str
    store: Store
    target: Path

    def pull(self, *sources: Simulator, listing: str = "") -> PullReport:
        return fetch(
            self.record,
            listing or self.listing,
            self.target,
            sources=sources or (self.remote,),
            store=self.store,
            say=lambda _: None,
        )

    def refuses(self, kind: type[Error], what: str, where: str, mend: str, listing: str = "") -> None:
        """The pull ends with exactly this message, shows nothing and leaves nothing beside the store."""
        with pytest.raises(kind) as caught:
            self.pull(listing=listing)
        assert str(caught.value) == f"{what}\n  where: remote 'simulated': {where}\n  mend: {mend}"
        assert not self.target.parent.exists() or not list(self.target.parent.iterdir())

    @property
    def oids(self) -> dict[str, str]:
        """Object id by path, as the honest listing has them."""
        return {entry["relpath"]: entry["md5"] for entry in json.loads(self.remote.objects[self.listing])}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(transfer, "_PAUSE_S", 0.0)
    remote = Simulator()
    return Scene(
        built=tmp_path / "built",
        record=make_record(make_artifact(tmp_path / "built")),
        remote=remote,
        listing=remote.push(tmp_path / "built"),
        store=Store(tmp_path / "store"),
        target=tmp_path / "host" / "model",
    )


# Objects


def test_a_flipped_byte(scene: Scene) -> None:
    oid, data = scene.oids[FILE], (scene.built / FILE).read_bytes()
    scene.remote.flipped.add(oid)
    got, wanted = digest_bytes(data[:-1] + bytes([data[-1] ^ 1])), digest_bytes(data)
    scene.refuses(DigestMismatchError, f"{FILE} should have {wanted} ({len(data)} bytes), got {got}", oid, NOT_KEPT)


def test_a_flipped_byte_in_the_listing_of_tensors(scene: Scene) -> None:
    oid, data = scene.oids["artifact.json"], (scene.built / "artifact.json").read_bytes()
    scene.remote.flipped.add(oid)
    got, wanted = digest_bytes(data[:-1] + bytes([data[-1] ^ 1])), digest_bytes(data)
    scene.refuses(
        DigestMismatchError, f"artifact.json should have {wanted} (67108864 bytes at most), got {got}", oid, NOT_KEPT
    )


def test_a_flipped_byte_is_taken_from_the_next_source_and_reported(scene: Scene) -> None:
    bad = Simulator(name="the DVC cache", objects=dict(scene.remote.objects), flipped={scene.oids[FILE]})
    report = scene.pull(bad, scene.remote)
    assert (scene.target / FILE).read_bytes() == (scene.built / FILE).read_bytes()
    assert len(report.notes) == 1
    assert report.notes[0].startswith(f"{FILE} should have sha256:")
    assert report.notes[0].endswith(f" (the DVC cache: {scene.oids[FILE]}); taken from remote 'simulated'")
    assert report.moved_from["remote 'simulated'"] == len(scene.remote.objects[scene.oids[FILE]])


def test_two_sources_with_bad_bytes_are_both_named(scene: Scene) -> None:
    oid = scene.oids[FILE]
    cache = Simulator(name="the DVC cache", objects=dict(scene.remote.objects), flipped={oid})
    scene.remote.endless.add(oid)
    with pytest.raises(DigestMismatchError) as caught:
        scene.pull(cache, scene.remote)
    assert caught.value.where == f"remote 'simulated': {oid}"
    assert "got more bytes than that; also: " in caught.value.what
    assert caught.value.what.endswith(f" (the DVC cache: {oid})")


def test_other_bytes_of_the_same_md5_are_refused(scene: Scene) -> None:
    """MD5 names objects and proves nothing: what an attacker made collide is found by sha256."""
    oid, data = scene.oids[FILE], (scene.built / FILE).read_bytes()
    scene.remote.objects[oid] = evil = bytes(len(data))
    scene.refuses(
        DigestMismatchError,
        f"{FILE} should have {digest_bytes(data)} ({len(data)} bytes), got {digest_bytes(evil)}",
        oid,
        NOT_KEPT,
    )


def test_a_short_object(scene: Scene) -> None:
    oid, data = scene.oids[FILE], (scene.built / FILE).read_bytes()
    scene.remote.cut[oid] = 1000
    scene.refuses(
        TransportError, f"{FILE} ended after 1000 of {len(data)} bytes", oid, "pull again: what has come is kept"
    )


def test_a_short_object_is_completed_by_the_next_source(scene: Scene) -> None:
    oid = scene.oids[FILE]
    cut = Simulator(name="the DVC cache", objects=dict(scene.remote.objects), cut={oid: 1000})
    report = scene.pull(cut, scene.remote)
    assert scene.remote.opened == [(oid, 1000)]
    ended = f"{FILE} ended after 1000 of {len(scene.remote.objects[oid])} bytes"
    assert report.notes == (f"{ended} (the DVC cache: {oid}); taken from remote 'simulated'",)


def test_an_endless_object_costs_one_byte_more_than_its_size(scene: Scene) -> None:
    oid, data = scene.oids[FILE], (scene.built / FILE).read_bytes()
    scene.remote.endless.add(oid)
    scene.refuses(
        DigestMismatchError,
        f"{FILE} should have {digest_bytes(data)} ({len(data)} bytes), got more bytes than that",
        oid,
        NOT_KEPT,
    )
    assert scene.remote.read_bytes[oid] == len(data) + 1


def test_an_endless_listing_of_tensors_is_cut(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.pull.MAX_BYTES", 10_000)
    oid = scene.oids["artifact.json"]
    scene.remote.endless.add(oid)
    wanted = digest_bytes((scene.built / "artifact.json").read_bytes())
    scene.refuses(
        DigestMismatchError,
        f"artifact.json should have {wanted} (10000 bytes at most), got more bytes than that",
        oid,
        NOT_KEPT,
    )
    assert scene.remote.read_bytes[oid] == 10_001


def test_a_missing_object(scene: Scene) -> None:
    oid = scene.oids[FILE]
    del scene.remote.objects[oid]
    scene.refuses(NotFoundError, "there is no such object", oid, "run `dvc push` where it was built")


def test_a_listing_without_its_objects_is_a_half_push(scene: Scene) -> None:
    for oid in scene.oids.values():
        scene.remote.objects.pop(oid, None)
    with pytest.raises(NotFoundError):
        scene.pull()
    assert not list(scene.target.parent.iterdir())


def test_a_flipped_byte_in_the_store_is_mended_and_reported(scene: Scene, tmp_path: Path) -> None:
    scene.pull()
    wanted = digest_bytes((scene.built / FILE).read_bytes())
    stored = scene.store.path(wanted)
    stored.chmod(0o644)
    with stored.open("r+b") as stream:
        stream.write(b"\xff")
    got = digest_bytes(stored.read_bytes())
    report = replace(scene, target=tmp_path / "second").pull()
    assert report.notes == (
        f"{FILE}: an object of the store has {got}, its name says {wanted} ({stored}); it was fetched again",
    )
    assert (tmp_path / "second" / FILE).read_bytes() == (scene.built / FILE).read_bytes()
    assert digest_bytes(stored.read_bytes()) == wanted


# The listing


def test_a_listing_with_other_bytes_than_its_name(scene: Scene) -> None:
    scene.remote.flipped.add(scene.listing)
    data = scene.remote.objects[scene.listing]
    got = md5(data[:-1] + bytes([data[-1] ^ 1]))
    scene.refuses(
        DigestMismatchError,
        f"the listing has md5 {got}, its name says {scene.listing.removesuffix('.dir')}",
        scene.listing,
        REFUSED,
    )


@pytest.mark.parametrize("path", ["../../x", "/etc/passwd", "a/../../x", "./x", "a//b", "a\\..\\x", "C:x", "a\0b", ""])
def test_a_path_out_of_the_folder(path: str, scene: Scene) -> None:
    listing = scene.remote.push_listing({**scene.oids, path: scene.oids[FILE]})
    scene.refuses(
        InvalidError,
        f"{path!r} is no plain path inside a folder",
        listing,
        "do not use this file: its paths could write outside of its folder",
        listing,
    )
    assert scene.remote.opened == [(listing, 0)]


def test_one_path_twice(scene: Scene) -> None:
    listing = scene.remote.push_listing([*scene.oids.items(), (FILE, scene.oids["merges.txt"])])
    scene.refuses(InvalidError, f"{FILE!r} is listed twice", listing, REFUSED, listing)


def test_two_paths_that_differ_in_case_only(scene: Scene) -> None:
    listing = scene.remote.push_listing({**scene.oids, FILE.upper(): scene.oids[FILE]})
    scene.refuses(InvalidError, f"{FILE.upper()!r} and {FILE!r} differ in case only", listing, REFUSED, listing)


def test_a_file_that_is_a_folder_too(scene: Scene) -> None:
    listing = scene.remote.push_listing({**scene.oids, f"{FILE}/x": scene.oids[FILE]})
    scene.refuses(InvalidError, f"{FILE!r} is a file and a folder", listing, REFUSED, listing)


def test_a_file_more_than_the_record_names(scene: Scene) -> None:
    listing = scene.remote.push_listing({**scene.oids, "modeling.py": scene.remote.push_object(b"import os")})
    scene.refuses(
        InvalidError, "the listing has modeling.py, which the record does not name", listing, REFUSED, listing
    )


def test_a_file_fewer_than_the_record_names(scene: Scene) -> None:
    listing = scene.remote.push_listing({path: oid for path, oid in scene.oids.items() if path != FILE})
    scene.refuses(InvalidError, f"the listing lacks {FILE}", listing, REFUSED, listing)


def test_two_files_swapped(scene: Scene) -> None:
    """DVC with ``verify true`` lets this pass: each object is what its name says."""
    one, two = "model-0.safetensors", "model-1.safetensors"
    oids = scene.oids
    listing = scene.remote.push_listing({**oids, one: oids[two], two: oids[one]})
    with pytest.raises(DigestMismatchError) as caught:
        scene.pull(listing=listing)
    assert " should have sha256:" in caught.value.what
    assert not list(scene.target.parent.iterdir())


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"{}", "the listing is no list"),
        (b"[" * 100 + b"]" * 100, "document nested deeper than 64"),
        (b"[1]", "expected a table, got a number"),
        (b'[{"relpath": "x"}]', "md5: expected a value, got nothing"),
        (
            b'[{"md5": "0123456789abcdef0123456789abcdef", "relpath": "x", "mode": 511}]',
            "mode: expected a key of this schema, got an unknown key",
        ),
        (b'[{"md5": "../../x", "relpath": "x"}]', "'../../x' is no md5 of a file"),
        (b'[{"md5": "0123456789abcdef0123456789abcdef", "relpath": 1}]', "relpath: expected text, got a number"),
        (b"\xff\xfe", "not strict JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_a_listing_that_is_none(data: bytes, what: str, scene: Scene) -> None:
    with pytest.raises(InvalidError) as caught:
        scene.pull(listing=scene.remote.push_raw_listing(data))
    assert caught.value.what == what
    assert not scene.target.parent.exists()


def test_an_endless_listing_is_cut(scene: Scene) -> None:
    scene.remote.endless.add(scene.listing)
    with pytest.raises(DigestMismatchError):
        scene.pull()
    assert scene.remote.read_bytes[scene.listing] < 5_000


# The record


def test_a_record_and_a_listing_of_tensors_that_contradict_each_other(scene: Scene) -> None:
    lying = replace(scene.record.artifact, weights_digest=digest_bytes(b"other weights"))
    with pytest.raises(InvalidError) as caught:
        replace(scene, record=replace(scene.record, artifact=lying)).pull()
    assert str(caught.value) == (
        "artifact.json and the record contradict each other\n"
        "  where: the record of support:final\n"
        "  mend: do not use this artifact; build its stage again"
    )
    assert not list(scene.target.parent.iterdir())


def test_what_was_pulled_before_is_not_touched_by_a_pull_that_fails(scene: Scene) -> None:
    scene.pull()
    before = {path: path.read_bytes() for path in scene.target.rglob("*") if path.is_file()}
    evil = Simulator(objects=dict(scene.remote.objects), endless=set(scene.oids.values()))
    assert scene.pull(evil).kept
    assert {path: path.read_bytes() for path in scene.target.rglob("*") if path.is_file()} == before


def test_files_that_were_put_there_during_a_pull_are_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "model"
    make_artifact(target, seed=1)
    record = make_record(make_artifact(tmp_path / "built"))
    assert not holds(record, target, force=True)
    with folder_beside(target) as folder:
        shutil.rmtree(target)
        target.mkdir()
        (target / "notes.txt").write_text("mine")
        with pytest.raises(ConflictError) as caught:
            show(record, folder, target, force=True)
    assert caught.value.what == "the folder holds other files"
    assert (target / "notes.txt").read_text() == "mine"
