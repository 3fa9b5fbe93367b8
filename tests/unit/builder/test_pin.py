"""What `varietal pin` refuses before it reads anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.pin import pin
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("source", "where"), [("", "varietal pin"), (".", "."), ("models/..", "models/..")])
def test_the_repository_itself_is_no_model(tmp_path: Path, source: str, where: str) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(InvalidError) as caught:
        pin(tmp_path, source)
    assert str(caught.value) == (
        f"the folder is the repository itself\n  where: {where}\n  mend: name a folder within it"
    )


def test_a_path_is_meant_from_where_the_command_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "sources/tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x")
    assert pin(tmp_path, "tiny", start=tmp_path / "sources") == pin(tmp_path, "sources/tiny")
    assert pin(tmp_path, "../sources/tiny", start=tmp_path / "sources")[0] == ("path", "sources/tiny")


@pytest.mark.parametrize(
    ("files", "mend"),
    [
        (["README.md"], "name a folder with config.json or adapter_config.json and its weights in it"),
        (["config.json"], "name a folder with config.json or adapter_config.json and its weights in it"),
        (["model.safetensors"], "name a folder with config.json or adapter_config.json and its weights in it"),
        (["talks.jsonl"], "data needs no pin: declare the file under `data:`, and DVC hashes it"),
    ],
)
def test_a_folder_without_a_model_is_refused(tmp_path: Path, files: list[str], mend: str) -> None:
    for name in files:
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_text("{}")
    with pytest.raises(InvalidError) as caught:
        pin(tmp_path, "folder")
    assert str(caught.value) == (f"the folder holds neither a model nor an adapter\n  where: folder\n  mend: {mend}")


def test_an_adapter_and_pickled_weights_are_pinned(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/adapter_config.json").write_text("{}")
    (tmp_path / "folder/adapter_model.bin").write_bytes(b"x")
    assert dict(pin(tmp_path, "folder"))["path"] == "folder"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "talks.jsonl").write_text("{}")
    with pytest.raises(InvalidError) as caught:
        pin(tmp_path, "talks.jsonl")
    assert caught.value.what == "a file, not a folder"
    assert caught.value.mend == "data needs no pin: declare the file under `data:`, and DVC hashes it"
