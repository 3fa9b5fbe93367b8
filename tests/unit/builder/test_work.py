"""Work folders: locked, kept, published whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from builder.work import full_disk, open_work, publish, write_file
from registry.artifact import Artifact
from registry.digest import digest_bytes
from registry.errors import ConflictError, MachineError
from tests.simulator import make_record

if TYPE_CHECKING:
    from pathlib import Path

    from builder.work import WorkFolder
    from registry.record import Record

ACTION = digest_bytes(b"an action")


def make(work: WorkFolder, content: bytes = b"{}") -> Record:
    work.start()
    (work.out / "metrics.json").write_bytes(content)
    artifact = Artifact.from_folder(work.out, "report")
    artifact.write(work.out)
    return make_record(artifact)


def test_an_artifact_is_shown_with_its_record(tmp_path: Path) -> None:
    folder, record_path = tmp_path / "models/v/artifacts/s", tmp_path / "models/v/artifacts/s.json"
    with open_work(tmp_path, ACTION) as work:
        record = make(work)
        publish(work.finish(record), record, folder, record_path)
        work.remove()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["s", "s.json"]
    assert record_path.read_bytes() == record.to_bytes()
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "artifact.json": 0o444,
        "metrics.json": 0o444,
    }
    assert not list((tmp_path / ".varietal/work").iterdir())


def test_what_stood_there_gives_way(tmp_path: Path) -> None:
    folder, record_path = tmp_path / "s", tmp_path / "s.json"
    for content in (b"1", b"2"):
        with open_work(tmp_path, ACTION) as work:
            record = make(work, content)
            publish(work.finish(record), record, folder, record_path)
            work.remove()
    assert (folder / "metrics.json").read_bytes() == b"2"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".varietal", "s", "s.json"]


def test_a_finished_artifact_is_found_again_and_state_is_kept(tmp_path: Path) -> None:
    with open_work(tmp_path, ACTION) as work:
        record = make(work)
        (work.state / "checkpoint").write_text("3")
        work.finish(record)
    with open_work(tmp_path, ACTION) as work:
        finished = work.finished()
        assert finished is not None
        assert finished[1].digest == record.digest
        assert (work.state / "checkpoint").read_text() == "3"


@pytest.mark.parametrize("damage", ["bytes", "missing", "record"])
def test_a_finished_artifact_that_does_not_hold_is_dropped(tmp_path: Path, damage: str) -> None:
    with open_work(tmp_path, ACTION) as work:
        done = work.finish(make(work))
        match damage:
            case "bytes":
                (done / "metrics.json").write_bytes(b"[]")
            case "missing":
                (done / "artifact.json").unlink()
            case _:
                (done.parent / "record.json").write_bytes(b"{")
        assert work.finished() is None
        assert not done.exists()


def test_half_an_output_goes_and_state_stays(tmp_path: Path) -> None:
    with open_work(tmp_path, ACTION) as work:
        work.start()
        (work.out / "half").write_text("x")
        (work.state / "kept").write_text("x")
    with open_work(tmp_path, ACTION) as work:
        work.start()
        assert not list(work.out.iterdir())
        assert (work.state / "kept").exists()


def test_one_action_is_worked_on_by_one_process(tmp_path: Path) -> None:
    with open_work(tmp_path, ACTION), pytest.raises(ConflictError) as caught, open_work(tmp_path, ACTION):
        pass
    assert str(caught.value) == (
        f"process {os.getpid()} is at this stage already\n"
        f"  where: .varietal/work/{ACTION.hex}\n"
        "  mend: wait for it, or end it (a training lives on when only its `dvc` was killed), then run again"
    )


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught, full_disk("support:final"):
        raise OSError(28, "No space left on device")
    assert str(caught.value) == (
        "the disk is full\n"
        "  where: support:final\n"
        "  mend: make room and run again: nothing half-written is shown, checkpoints are kept in .varietal/work"
    )
    with pytest.raises(FileNotFoundError), full_disk("support:final"):
        (tmp_path / "gone").read_bytes()


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"two"):
        write_file(path, data)
        assert path.read_bytes() == data
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_goes_while_its_lock_is_taken_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process ends between our opening of the lock file and our lock on it."""
    folder = tmp_path / ".varietal/work" / ACTION.hex
    real, calls = fcntl.flock, 0

    def flock(lock: int, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            shutil.rmtree(folder)
        real(lock, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with open_work(tmp_path, ACTION) as work:
        make(work)
        with pytest.raises(ConflictError), open_work(tmp_path, ACTION):
            pass
    assert calls == 3
