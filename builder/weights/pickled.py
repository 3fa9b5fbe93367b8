"""Weights that torch saved as a pickle (``.bin``, ``.pt``), read weights-only: tensors are made, nothing is run.

torch's weights-only unpickler knows tensors and plain values and refuses every other name. A file in torch's zip form
is mapped, so that memory does not grow with the model; the older form is read whole.
"""

from __future__ import annotations

import errno
import pickle
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from builder.weights.dtypes import dtype_name
from builder.weights.folder import check_index, plain_file
from builder.weights.stream import Held
from registry.canonical import decode
from registry.errors import InvalidError
from registry.safetensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["BIN_INDEX", "PICKLES", "pickle_files", "read_pickled"]

BIN_INDEX = "pytorch_model.bin.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""How the names of pickles end."""

_SINGLE = ("pytorch_model.bin", "model.bin", "model.pt", "model.pth")
_NESTED = "state_dict"
_SAFE = "load it where you trust it, save it with `save_pretrained` as safetensors, and import that folder"


def pickle_files(folder: Path, present: Sequence[str]) -> tuple[str, ...]:
    """Names of the files that hold a model's weights as pickles; empty where there are none.

    Args:
        folder: Folder of the model; of its files only the index is read.
        present: Names of the files that are there, or will be.

    Raises:
        InvalidError: The index is not sound, or points outside of the folder.
    """
    if BIN_INDEX in present:
        return tuple(sorted(set(_weight_map(folder).values())))
    return next(((name,) for name in _SINGLE if name in present), ())


def read_pickled(folder: Path, names: Sequence[str]) -> dict[str, Held]:
    """Every tensor of some pickles, mapped, not copied; several names for one memory are a tensor each.

    Args:
        folder: Where they lie; with their index, if there is one.
        names: Their names.

    Returns:
        Name -> tensor, sorted.

    Raises:
        NotFoundError: A file is not there.
        InvalidError: A file holds more than tensors, is cut short, or two hold a tensor of one name; or the index says
            something else than the files.
        OSError: A file cannot be read.
    """
    found: dict[str, torch.Tensor] = {}
    files: dict[str, str] = {}
    for name in names:
        path = plain_file(folder, name)
        for key, tensor in _tensors(path).items():
            if key in found:
                raise InvalidError(f"tensor {key!r} is there twice", where=str(path), mend="fetch the model again")
            _check_plain(key, tensor, path)
            found[key], files[key] = tensor, name
    if (folder / BIN_INDEX).exists():
        check_index(_weight_map(folder), files, where=folder / BIN_INDEX)
    return {key: _held(key, found[key]) for key in sorted(found)}


def _weight_map(folder: Path) -> dict[str, str]:
    where = str(folder / BIN_INDEX)
    value = decode(plain_file(folder, BIN_INDEX).read_bytes(), where=where)
    table = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(table, dict) or not table:
        raise InvalidError("there is no weight_map", where=where, mend="fetch the model again")
    if strange := sorted(str(name) for name in table.values() if not _is_plain(name)):
        raise InvalidError(
            f"the weight map points to {strange[0]!r}; it must name .bin files of its own folder",
            where=where,
            mend="do not use this model: its index reaches outside of it or names other files",
        )
    return {key: str(name) for key, name in table.items()}


def _is_plain(name: object) -> bool:
    plain = isinstance(name, str) and name.isprintable() and not set(name) & set('/\\:*?"<>|') and name[:1] != "."
    return plain and str(name).endswith(".bin")


def _held(name: str, tensor: torch.Tensor) -> Held:
    return Held(spec=TensorSpec(name=name, dtype=dtype_name(tensor), shape=tuple(tensor.shape)), tensor=tensor)


def _check_plain(name: str, tensor: torch.Tensor, path: Path) -> None:
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
        raise InvalidError(
            f"tensor {name!r} is {tensor.layout} of {tensor.dtype}, no plain tensor",
            where=str(path),
            mend="save the model with plain tensors",
        )
    if tensor.is_meta:
        raise InvalidError(
            f"tensor {name!r} is on the meta device: it has a shape and no numbers",
            where=str(path),
            mend="load the model with its weights before it is saved, and import that",
        )
    held = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > held:
        raise InvalidError(
            f"tensor {name!r} is {list(tensor.shape)} of {held} stored numbers, repeated",
            where=str(path),
            mend="save the model with `.contiguous()` tensors, and import that",
        )


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """The flat table of tensors in one file, or in its ``state_dict``."""
    value = _load(path)
    if isinstance(value, dict) and isinstance(value.get(_NESTED), dict):
        value = value[_NESTED]
    if not isinstance(value, dict) or not value:
        raise InvalidError(f"it holds a {type(value).__name__}, no table of tensors", where=str(path), mend=_SAFE)
    for key, one in value.items():
        if not isinstance(key, str) or not isinstance(one, torch.Tensor):
            problem = f"{str(key)[:80]!r} is a {type(one).__name__}, no tensor"
            raise InvalidError(problem, where=str(path), mend=_SAFE)
    return dict(value)


def _load(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds; the caller looks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old forms, which it then reads or refuses
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise InvalidError(
            f"it asks for more than tensors: {str(error).splitlines()[0][:200]}", where=str(path), mend=_SAFE
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError) as error:
        raise _broken(path, error) from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise _broken(path, error) from error  # it maps more than the file has


def _broken(path: Path, error: Exception) -> InvalidError:
    reason = str(error).splitlines()[0][:200] if str(error) else "it is cut short"
    return InvalidError(f"it is not as torch saves weights: {reason}", where=str(path), mend="fetch the file again")
