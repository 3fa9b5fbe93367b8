"""Artifacts: digests, listings and the verification of a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from registry.artifact import LISTING, Artifact, FileEntry, TensorEntry, check_path
from registry.digest import digest_bytes
from registry.errors import DigestMismatchError, Error, InvalidError, NotFoundError
from registry.safetensors import TensorSpec, Writer

if TYPE_CHECKING:
    from pathlib import Path

SPECS = (TensorSpec(name="a", dtype="U8", shape=(2,)), TensorSpec(name="b", dtype="U8", shape=(3,)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model: one shard and a configuration, with its listing."""
    path = tmp_path / "model"
    path.mkdir()
    with Writer(path / "model.safetensors", SPECS, {}) as writer:
        writer.write(b"aabbb")
        writer.finish()
    (path / "config.json").write_bytes(b"{}")
    Artifact.from_folder(path, "model").write(path)
    return path


def test_a_folder_is_described(folder: Path) -> None:
    artifact = Artifact.read(folder)
    assert [file.path for file in artifact.files] == ["config.json", "model.safetensors"]
    assert artifact.files[0].digest == digest_bytes(b"{}")
    assert [(one.name, one.shape, one.file, one.digest) for one in artifact.tensors] == [
        ("a", (2,), "model.safetensors", digest_bytes(b"aa")),
        ("b", (3,), "model.safetensors", digest_bytes(b"bbb")),
    ]
    assert artifact.size_bytes == 2 + (folder / "model.safetensors").stat().st_size


def test_the_formulas_of_the_digests() -> None:
    file = FileEntry(path="f", size_bytes=1, digest=digest_bytes(b"x"))
    tensor = TensorEntry(name="t", dtype="U8", shape=(1,), file="f", digest=digest_bytes(b"x"))
    artifact = Artifact(type="model", files=(file,), tensors=(tensor,))
    assert artifact.digest == digest_bytes(f'[["f",1,"{file.digest}"]]'.encode())
    assert artifact.weights_digest == digest_bytes(f'[["t","U8",[1],"{file.digest}"]]'.encode())
    assert Artifact(type="report", files=(file,), tensors=()).weights_digest is None


def test_one_weights_digest_under_any_sharding(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "sharded"
    other.mkdir()
    for spec, data in zip(SPECS, (b"aa", b"bbb"), strict=True):
        with Writer(other / f"{spec.name}.safetensors", (spec,), {"format": "pt"}) as writer:
            writer.write(data)
            writer.finish()
    one, two = Artifact.read(folder), Artifact.from_folder(other, "model")
    assert one.weights_digest == two.weights_digest
    assert one.digest != two.digest


def test_what_the_writer_reported_is_not_hashed_again(tmp_path: Path) -> None:
    with Writer(tmp_path / "m.safetensors", SPECS, {}) as writer:
        writer.write(b"aabbb")
        written = writer.finish()
    assert Artifact.from_folder(tmp_path, "model", [written]) == Artifact.from_folder(tmp_path, "model")
    (tmp_path / "m.safetensors").write_bytes(b"another")
    assert Artifact.from_folder(tmp_path, "model", [written]).files[0].digest == written.digest


def test_a_file_is_reported_for_a_folder_that_links_it(folder: Path) -> None:
    artifact = Artifact.read(folder)
    assert Artifact.from_folder(folder, "model", [artifact.written("model.safetensors")]) == artifact
    with pytest.raises(KeyError):
        artifact.written("other")


def test_the_listing_reads_back(folder: Path) -> None:
    artifact = Artifact.read(folder)
    assert Artifact.from_bytes(artifact.to_bytes(), where="x") == artifact


def test_a_sound_folder_verifies(folder: Path) -> None:
    Artifact.read(folder).verify_folder(folder)


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (lambda path: (path / "config.json").unlink(), NotFoundError, "config.json is missing"),
        (lambda path: (path / "config.json").write_bytes(b"[]"), DigestMismatchError, "config.json has sha256:4f53"),
        (lambda path: (path / "config.json").write_bytes(b"{} "), DigestMismatchError, "config.json has 3 bytes"),
        (lambda path: (path / "run.py").write_bytes(b""), InvalidError, "run.py: not part of the artifact"),
        (lambda path: (path / "l").symlink_to("config.json"), InvalidError, "l is a symlink or a special file"),
    ],
)
def test_a_changed_folder_does_not(folder: Path, damage: object, kind: type[Error], message: str) -> None:
    artifact = Artifact.read(folder)
    assert callable(damage)
    damage(folder)
    with pytest.raises(kind) as caught:
        artifact.verify_folder(folder)
    assert caught.value.what.startswith(message)


def test_a_folder_without_listing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"there is no artifact\.json"):
        Artifact.read(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"config.json"', '"../config.json"', "'../config.json' is no plain path inside a folder"),
        ('"config.json"', '"model.safetensors"', "files and tensors are not sorted, or one is there twice"),
        ('"config.json"', '"Model.safetensors"', "two file names differ in case only"),
        ('"config.json"', '"artifact.json"', "artifact.json lists itself"),
        ('"name": "a"', '"name": "b"', "files and tensors are not sorted, or one is there twice"),
        ('"file": "model.safetensors"', '"file": "x"', "tensors lie in files that are not listed: x"),
        ('"type": "model"', '"type": "recipe"', "type: expected 'model' or 'adapter' or 'report', got 'recipe'"),
        ('"size_bytes": 2', '"size_bytes": -2', "size_bytes: expected a whole number from 0, got -2"),
        ('"size_bytes": 2', '"size_bytes": true', "size_bytes: expected a whole number from 0, got True"),
        (
            "varietal/artifact/1",
            "varietal/artifact/9",
            "schema: expected 'varietal/artifact/1', got 'varietal/artifact/9'",
        ),
    ],
)
def test_a_forged_listing_is_refused(folder: Path, old: str, new: str, message: str) -> None:
    text = (folder / LISTING).read_text()
    assert old in text
    with pytest.raises(InvalidError) as caught:
        Artifact.from_bytes(text.replace(old, new).encode(), where="listing")
    assert caught.value.what == message


@pytest.mark.parametrize("path", ["/etc/passwd", "a/../b", "a//b", "./a", "a\\b", "C:x", "a\n", "", "a/", "x" * 1025])
def test_paths_that_could_leave_a_folder_are_refused(path: str) -> None:
    with pytest.raises(InvalidError, match="is no plain path inside a folder"):
        check_path(path, where="x")
