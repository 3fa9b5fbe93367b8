"""Weights as pickles: nothing in them is run, and what is no table of tensors is refused by name."""

from __future__ import annotations

import json
import os
import pickle
from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.pickled import pickle_files, read_pickled
from registry.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "pytorch_model.bin"


class Command:
    """Makes a folder when it is unpickled by a loader that trusts it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def refusal(folder: Path) -> InvalidError:
    with pytest.raises(InvalidError) as caught:
        read_pickled(folder, [NAME])
    assert caught.value.where == str(folder / NAME)
    return caught.value


@pytest.mark.parametrize("zipped", [True, False])
def test_a_command_in_a_pickle_is_refused_and_not_run(tmp_path: Path, *, zipped: bool) -> None:
    torch.save({"w": Command(tmp_path / "run")}, tmp_path / NAME, _use_new_zipfile_serialization=zipped)
    assert refusal(tmp_path).what.startswith("it asks for more than tensors: ")
    assert not (tmp_path / "run").exists()
    with (tmp_path / NAME).open("wb") as stream:
        pickle.dump(Command(tmp_path / "run"), stream)
    refusal(tmp_path)
    assert not (tmp_path / "run").exists()


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../other.bin"}}))
    with pytest.raises(InvalidError) as caught:
        pickle_files(tmp_path, [index.name])
    assert caught.value.what == "the weight map points to '../other.bin'; it must name .bin files of its own folder"
    index.write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(InvalidError) as caught:
        pickle_files(tmp_path, [index.name])
    assert caught.value.what == "there is no weight_map"


def test_a_link_in_place_of_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "other.bin")
    (tmp_path / NAME).symlink_to(tmp_path / "other.bin")
    with pytest.raises(InvalidError) as caught:
        read_pickled(tmp_path, [NAME])
    assert caught.value.what == f"{NAME} is a symlink, a folder or a special file"
    with pytest.raises(NotFoundError):
        read_pickled(tmp_path, ["pytorch_model-00001-of-00002.bin"])


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([torch.ones(1)], "it holds a list, no table of tensors"),
        ({}, "it holds a dict, no table of tensors"),
        ({"step": 3}, "'step' is a int, no tensor"),
        ({3: torch.ones(1)}, "'3' is a Tensor, no tensor"),
    ],
)
def test_what_is_no_table_of_tensors_is_named(tmp_path: Path, value: object, what: str) -> None:
    torch.save(value, tmp_path / NAME)
    assert refusal(tmp_path).what == what


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1000)}, tmp_path / NAME)
    data = (tmp_path / NAME).read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 30):
        (tmp_path / NAME).write_bytes(data[:length])
        refusal(tmp_path)


def test_a_tensor_that_is_not_plain_is_named(tmp_path: Path) -> None:
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / NAME)
    with pytest.raises(InvalidError) as caught:
        read_pickled(tmp_path, [NAME])
    assert caught.value.what == "tensor 'w' is torch.sparse_coo of torch.float32, no plain tensor"


def test_a_tensor_without_numbers_is_named(tmp_path: Path) -> None:
    torch.save({"w": torch.empty(2, 3, device="meta")}, tmp_path / NAME)
    assert str(refusal(tmp_path)) == (
        "tensor 'w' is on the meta device: it has a shape and no numbers\n"
        f"  where: {tmp_path / NAME}\n"
        "  mend: load the model with its weights before it is saved, and import that"
    )


@pytest.mark.parametrize("shape", [(1 << 24, 1 << 24), (2, 3)])
def test_a_tensor_of_more_numbers_than_are_stored_is_named(tmp_path: Path, shape: tuple[int, int]) -> None:
    torch.save({"w": torch.zeros(1, 1).expand(shape)}, tmp_path / NAME)
    assert str(refusal(tmp_path)) == (
        f"tensor 'w' is {list(shape)} of 1 stored numbers, repeated\n"
        f"  where: {tmp_path / NAME}\n"
        "  mend: save the model with `.contiguous()` tensors, and import that"
    )


def test_an_index_that_contradicts_its_files_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "pytorch_model.bin.index.json"
    torch.save({"w": torch.ones(1), "v": torch.ones(1)}, tmp_path / NAME)
    for weight_map, what in (
        ({"v": NAME, "w": NAME, "x": NAME}, f"tensor 'x': the index says {NAME}, it is in no file"),
        ({"w": NAME}, f"tensor 'v': the index says nothing, it is in {NAME}"),
        ({"v": "other.bin", "w": NAME}, f"tensor 'v': the index says other.bin, it is in {NAME}"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(InvalidError) as caught:
            read_pickled(tmp_path, [NAME])
        assert str(caught.value) == (
            f"{what}\n  where: {index}\n  mend: fetch the model again; its index and its files do not belong together"
        )
    index.write_text(json.dumps({"weight_map": {"v": NAME, "w": NAME}}))
    assert list(read_pickled(tmp_path, [NAME])) == ["v", "w"]


def test_one_name_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in (NAME, "other.bin"):
        torch.save({"w": torch.ones(1)}, tmp_path / name)
    with pytest.raises(InvalidError) as caught:
        read_pickled(tmp_path, [NAME, "other.bin"])
    assert caught.value.what == "tensor 'w' is there twice"


def test_a_table_may_lie_in_state_dict_and_in_the_older_form(tmp_path: Path) -> None:
    values = {"state_dict": {"b": torch.arange(6).view(2, 3).T, "a": torch.ones(2)}}
    torch.save(values, tmp_path / NAME, _use_new_zipfile_serialization=False)
    found = read_pickled(tmp_path, [NAME])
    assert list(found) == ["a", "b"]
    assert torch.equal(found["b"].tensor, values["state_dict"]["b"])
