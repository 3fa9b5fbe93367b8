"""Stored tensors row by row: what is read is what the file holds, as float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from builder.weights.blend.rows import StoredRows, matrix_shape
from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.stream import Scratch, Stored
from registry.errors import InvalidError
from registry.safetensors import read_header

if TYPE_CHECKING:
    from pathlib import Path


def stored(path: Path, tensor: torch.Tensor) -> StoredRows:
    save_file({"first": torch.zeros(3), "weight": tensor}, path)
    return StoredRows(stored=Stored(path=path, info=read_header(path).tensors["weight"]))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("shape", [(5, 3), (7,), (2, 3, 4), (), (0, 4)])
def test_rows_are_those_of_the_file(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, dtype=torch.float64).to(TORCH_DTYPES[dtype])
    rows = stored(tmp_path / "model.safetensors", tensor)
    assert rows.shape == matrix_shape(shape)
    assert rows.where == str(tmp_path / "model.safetensors")
    scratch, matrix = Scratch(), tensor.double().reshape(rows.shape)
    for start, stop in ((0, rows.shape[0]), (0, 0), (rows.shape[0] // 2, rows.shape[0])):
        found = rows.read(start, stop, scratch, "one")
        assert found.dtype == torch.float64
        assert torch.equal(found, matrix[start:stop])


def test_each_role_has_a_buffer_of_its_own(tmp_path: Path) -> None:
    rows, scratch = stored(tmp_path / "model.safetensors", torch.arange(6.0).view(3, 2)), Scratch()
    one, other = rows.read(0, 1, scratch, "one"), rows.read(1, 2, scratch, "other")
    assert (one.tolist(), other.tolist()) == ([[0.0, 1.0]], [[2.0, 3.0]])
    again = rows.read(2, 3, scratch, "one")
    assert again.data_ptr() == one.data_ptr()
    assert one.tolist() == [[4.0, 5.0]]


def test_whole_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(InvalidError) as caught:
        stored(path, torch.arange(6).view(3, 2)).read(0, 3, Scratch(), "one")
    assert caught.value.what == "tensor 'weight' is I64; only floats can be blended"
    assert caught.value.where == str(path)


def test_a_file_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    rows = stored(path, torch.randn(100, 100))
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 1000)
    with pytest.raises(InvalidError) as caught:
        rows.read(0, 100, Scratch(), "one")
    assert caught.value.what == "the file ends inside tensor 'weight'"
