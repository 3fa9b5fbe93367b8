from __future__ import annotations

import shutil
import stat
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from registry import transfer
from registry.artifact import Artifact
from registry.errors import ConflictError, DeniedError, InvalidError, NotFoundError, TransportError
from registry.pull import Candidate, PullReport, fetch, materialise
from registry.store import Store
from tests.simulator import Simulator, make_artifact, make_record, md5

if TYPE_CHECKING:
    from registry.record import Record


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An artifact that was built and pushed, and an empty machine to pull it to."""

    built: Path
    record: Record
    remote: Simulator
    listing: str
    store: Store
    target: Path

    def pull(self, *sources: Simulator, force: bool = False) -> PullReport:
        return fetch(
            self.record,
            self.listing,
            self.target,
            sources=sources or (self.remote,),
            store=self.store,
            say=lambda _: None,
            force=force,
        )

    def oid(self, path: str) -> str:
        return md5((self.built / path).read_bytes())

    @property
    def moved_bytes(self) -> int:
        """All that a first pull moves: the files, their listing, DVC's listing."""
        return sum(map(len, self.remote.objects.values()))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(transfer, "_PAUSE_S", 0.0)
    record = make_record(make_artifact(tmp_path / "built"))
    remote = Simulator()
    return Scene(
        built=tmp_path / "built",
        record=record,
        remote=remote,
        listing=remote.push(tmp_path / "built"),
        store=Store(tmp_path / "store"),
        target=tmp_path / "host" / "model",
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_first_pull_moves_all_and_a_second_nothing(scene: Scene, tmp_path: Path) -> None:
    report = scene.pull()
    assert contents(scene.target) == contents(scene.built)
    assert report == PullReport(
        target=scene.target,
        digest=scene.record.artifact.digest,
        moved_bytes=scene.moved_bytes,
        had_bytes=0,
        moved_from={"remote 'simulated'": scene.moved_bytes},
        kept=False,
        notes=(),
        base=None,
    )
    again = replace(scene, target=tmp_path / "host" / "second").pull()
    listing_bytes = len(scene.remote.objects[scene.listing])
    assert (again.moved_bytes, again.had_bytes) == (listing_bytes, scene.moved_bytes - listing_bytes)
    assert contents(tmp_path / "host" / "second") == contents(scene.built)


def test_nothing_but_the_folder_is_left_beside_it(scene: Scene) -> None:
    scene.pull()
    assert [path.name for path in scene.target.parent.iterdir()] == ["model"]
    assert stat.S_IMODE(scene.target.stat().st_mode) & 0o755 == 0o755


def test_a_pulled_folder_holds_by_itself(scene: Scene) -> None:
    scene.pull()
    Artifact.read(scene.target).verify_folder(scene.target)


def test_the_same_folder_is_verified_and_left(scene: Scene) -> None:
    scene.pull()
    scene.remote.opened.clear()
    report = scene.pull()
    assert report.kept
    assert (report.moved_bytes, report.had_bytes) == (0, scene.record.artifact.size_bytes)
    assert scene.remote.opened == []


def test_an_empty_folder_is_filled(scene: Scene) -> None:
    scene.target.mkdir(parents=True)
    scene.pull()
    assert contents(scene.target) == contents(scene.built)


def test_a_folder_with_another_artifact_is_refused_and_replaced_by_force(scene: Scene) -> None:
    other = make_artifact(scene.target, seed=1)
    with pytest.raises(ConflictError) as caught:
        scene.pull()
    assert str(caught.value) == (
        f"the folder holds another artifact, or a damaged one: it is {other.digest}, "
        f"wanted is {scene.record.artifact.digest}\n"
        f"  where: {scene.target}\n"
        "  mend: choose another folder, or replace this one with --force"
    )
    assert scene.remote.opened == []
    scene.pull(force=True)
    assert contents(scene.target) == contents(scene.built)
    assert [path.name for path in scene.target.parent.iterdir()] == ["model"]


def test_force_leaves_the_old_folder_when_the_pull_fails(scene: Scene) -> None:
    make_artifact(scene.target, seed=1)
    before = contents(scene.target)
    scene.remote.objects.pop(scene.oid("model-1.safetensors"))
    with pytest.raises(NotFoundError):
        scene.pull(force=True)
    assert contents(scene.target) == before


def test_a_damaged_folder_is_refused(scene: Scene) -> None:
    scene.pull()
    extra = scene.target / "notes.txt"
    extra.write_text("mine")
    with pytest.raises(ConflictError) as caught:
        scene.pull()
    assert caught.value.what == (
        "the folder holds another artifact, or a damaged one: notes.txt: not part of the artifact"
    )
    assert extra.exists()


def test_force_never_replaces_what_is_no_artifact(scene: Scene) -> None:
    scene.target.mkdir(parents=True)
    (scene.target / "thesis.txt").write_text("all my work")
    with pytest.raises(ConflictError) as caught:
        scene.pull(force=True)
    assert str(caught.value) == (
        f"the folder holds other files\n  where: {scene.target}\n  mend: choose an empty folder or a new one"
    )


def test_a_file_or_a_link_is_no_folder(scene: Scene, tmp_path: Path) -> None:
    scene.target.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    scene.target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConflictError) as caught:
        scene.pull(force=True)
    assert caught.value.what == "the target is not a folder"


def test_a_broken_connection_is_resumed(scene: Scene) -> None:
    oid = scene.oid("model-0.safetensors")
    scene.remote.broken[oid] = [1000, 2000]
    report = scene.pull()
    assert [offset for opened, offset in scene.remote.opened if opened == oid] == [0, 1000, 3000]
    assert report.moved_bytes == scene.moved_bytes
    assert report.notes == ()


def test_a_connection_that_keeps_breaking_ends_the_pull_and_keeps_what_came(scene: Scene) -> None:
    oid = scene.oid("model-0.safetensors")
    scene.remote.broken[oid] = [1000, 0, 0, 0]
    with pytest.raises(TransportError) as caught:
        scene.pull()
    assert caught.value.what == "reading failed: connection reset"
    assert not scene.target.exists()
    assert not list(scene.target.parent.iterdir())
    scene.remote.broken.clear()
    before = scene.remote.read_bytes[oid]
    report = scene.pull()
    assert before == 1000
    assert scene.remote.read_bytes[oid] == len(scene.remote.objects[oid])
    assert report.had_bytes >= 1000


def test_what_one_source_lacks_the_next_one_gives(scene: Scene) -> None:
    cache = Simulator(name="the DVC cache", objects=dict(scene.remote.objects))
    lacking = scene.oid("model-1.safetensors")
    del cache.objects[lacking]
    report = scene.pull(cache, scene.remote)
    assert report.moved_from == {
        "the DVC cache": scene.moved_bytes - len(scene.remote.objects[lacking]),
        "remote 'simulated'": len(scene.remote.objects[lacking]),
    }
    assert report.notes == ()


def test_the_failure_that_says_most_is_raised(scene: Scene) -> None:
    oid = scene.oid("model-0.safetensors")
    denying = Simulator(name="remote 'a'", objects=dict(scene.remote.objects), denied={oid})
    lacking = Simulator(name="remote 'b'", objects={k: v for k, v in scene.remote.objects.items() if k != oid})
    with pytest.raises(DeniedError) as caught:
        scene.pull(lacking, denying)
    assert str(caught.value) == (
        f"reading is not allowed: 403\n  where: remote 'a': {oid}\n  mend: check the credentials"
    )


def test_without_a_source(scene: Scene) -> None:
    with pytest.raises(NotFoundError) as caught:
        fetch(scene.record, scene.listing, scene.target, sources=(), store=scene.store, say=print)
    assert str(caught.value) == (
        "there is no source to pull from\n  where: pull\n  mend: run `dvc remote add -d NAME URL`"
    )


def test_what_a_killed_pull_left_beside_the_target_is_removed(scene: Scene) -> None:
    left = scene.target.parent / ".model.pull-0badcafe"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    scene.pull()
    assert [path.name for path in scene.target.parent.iterdir()] == ["model"]


def test_two_pulls_of_one_folder_at_once_both_end_well(scene: Scene) -> None:
    scene.remote.pause_s = 0.02
    reports: list[PullReport] = []
    threads = [threading.Thread(target=lambda: reports.append(scene.pull())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 3
    assert contents(scene.target) == contents(scene.built)
    assert [path.name for path in scene.target.parent.iterdir()] == ["model"]
    listing_bytes = len(scene.remote.objects[scene.listing])
    assert sum(scene.remote.read_bytes.values()) == scene.moved_bytes + 2 * listing_bytes


def test_an_adapter_names_the_base_that_it_needs(scene: Scene, tmp_path: Path) -> None:
    record = make_record(make_artifact(tmp_path / "adapter", kind="adapter"))
    listing = scene.remote.push(tmp_path / "adapter")
    report = replace(scene, record=record, listing=listing).pull()
    assert report.base == record.inputs[0]
    under = replace(record.inputs[0], role="base", name="under")
    further = replace(record, inputs=(*record.inputs, under))
    assert replace(scene, record=further, listing=listing).pull().base == under


def test_the_person_at_the_terminal_sees_each_file(scene: Scene) -> None:
    said: list[str] = []
    fetch(scene.record, scene.listing, scene.target, sources=(scene.remote,), store=scene.store, say=said.append)
    assert len(said) == 5
    assert said[-1].startswith("5 of 5 files: ")


def test_reuse_links_a_folder_of_the_work_tree_without_any_source(scene: Scene) -> None:
    candidate = Candidate(record=scene.record, folder=scene.built, listing_oid=scene.listing)
    scene.target.mkdir(parents=True)
    found = materialise([candidate], scene.target, sources=(scene.remote,), store=scene.store, say=print)
    assert found == scene.record
    assert contents(scene.target) == contents(scene.built)
    assert scene.remote.opened == []


def test_reuse_does_not_believe_a_folder_that_was_changed(scene: Scene, tmp_path: Path) -> None:
    (scene.built / "merges.txt").write_bytes(b"changed")
    candidate = Candidate(record=scene.record, folder=scene.built, listing_oid=scene.listing)
    assert materialise([candidate], scene.target, sources=(scene.remote,), store=scene.store, say=print) == scene.record
    assert (scene.target / "merges.txt").read_bytes() == b""
    shutil.rmtree(scene.target)
    said: list[str] = []
    empty = Store(tmp_path / "empty")
    assert materialise([candidate], scene.target, sources=(Simulator(),), store=empty, say=said.append) is None
    assert said == [f"support:final cannot be reused: there is no such object (remote 'simulated': {scene.listing})"]
    assert not scene.target.exists()


def test_reuse_takes_the_first_candidate_that_can_be_had(scene: Scene, tmp_path: Path) -> None:
    gone = Candidate(
        record=make_record(make_artifact(tmp_path / "other", seed=2), stage="gone"),
        folder=tmp_path / "nowhere",
        listing_oid="",
    )
    pushed = Candidate(record=scene.record, folder=tmp_path / "nowhere", listing_oid=scene.listing)
    found = materialise([gone, pushed], scene.target, sources=(scene.remote,), store=scene.store, say=print)
    assert found == scene.record


def test_a_record_with_one_path_twice_is_refused_before_anything_is_read(scene: Scene) -> None:
    files = scene.record.artifact.files
    twice = replace(scene.record, artifact=replace(scene.record.artifact, files=(*files, files[0])))
    with pytest.raises(InvalidError) as caught:
        replace(scene, record=twice).pull()
    assert caught.value.what == "'chat/template.jinja' is listed twice"
    assert scene.remote.opened == []


def test_where_nothing_is_found_the_last_source_speaks(scene: Scene) -> None:
    with pytest.raises(NotFoundError) as caught:
        scene.pull(Simulator(name="the DVC cache"), Simulator(name="remote 'far'"))
    assert caught.value.where == f"remote 'far': {scene.listing}"


def test_a_target_inside_a_file_is_refused(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for target in (tmp_path / "file" / "model", tmp_path / "file" / "deep" / "model"):
        with pytest.raises(ConflictError) as caught:
            replace(scene, target=target).pull()
        assert str(caught.value) == (
            f"a file is where a folder should be\n  where: {target.parent}\n  mend: choose another folder"
        )


def test_a_pull_into_the_empty_working_folder(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    report = replace(scene, target=Path()).pull()
    assert report.target == tmp_path / "here"
    assert contents(tmp_path / "here") == contents(scene.built)


def test_the_first_failure_stops_the_other_files(scene: Scene) -> None:
    slow = scene.oid("model-0.safetensors")
    del scene.remote.objects[scene.oid("model-1.safetensors")]
    scene.remote.block_bytes, scene.remote.pause_s = 1000, 0.01
    with pytest.raises(NotFoundError):
        scene.pull()
    assert scene.remote.read_bytes[slow] < len(scene.remote.objects[slow])
