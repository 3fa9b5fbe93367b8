from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.engines.checkpoints import any_checkpoint, latest, seal, step_of

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, step: int, *, sealed: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "ref").mkdir(parents=True)
    (checkpoint / "optimizer.pt").write_bytes(b"state" * step)
    (checkpoint / "ref" / "adapter_model.safetensors").write_bytes(b"weights")
    if sealed:
        seal(checkpoint)
    return checkpoint


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path) is None


def test_the_newest_by_number_not_by_name(tmp_path: Path) -> None:
    write(tmp_path, 9)
    newest = write(tmp_path, 10)
    assert latest(tmp_path) == newest
    assert step_of(newest) == 10


def test_an_unsealed_checkpoint_is_removed(tmp_path: Path) -> None:
    good = write(tmp_path, 50)
    half = write(tmp_path, 100, sealed=False)
    assert any_checkpoint(tmp_path)
    assert latest(tmp_path) == good
    assert not half.exists()


@pytest.mark.parametrize(
    "change", ["short", "flipped", "missing", "extra", "seal cut short", "seal without its rename"]
)
def test_a_checkpoint_that_is_not_as_sealed_is_removed(tmp_path: Path, change: str) -> None:
    good = write(tmp_path, 50)
    bad = write(tmp_path, 100)
    state, mark = bad / "optimizer.pt", bad / "varietal-seal.json"
    match change:
        case "short":
            state.write_bytes(state.read_bytes()[:-1])
        case "flipped":
            state.write_bytes(b"S" + state.read_bytes()[1:])
        case "missing":
            (bad / "ref" / "adapter_model.safetensors").unlink()
        case "extra":
            (bad / "scheduler.pt").write_bytes(b"")
        case "seal cut short":
            mark.write_bytes(mark.read_bytes()[:20])
        case _:
            mark.rename(bad / "varietal-seal.json.part")
    assert latest(tmp_path) == good
    assert not bad.exists()


def test_other_things_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text("{}")
    write(tmp_path, 1, sealed=False)
    assert not any_checkpoint(tmp_path)
    assert latest(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]
