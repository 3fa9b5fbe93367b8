"""The dtypes of safetensors and of torch, by each other's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON

__all__ = ["DTYPES_BY_NAME", "FLOATS", "ROUNDED", "TORCH_DTYPES", "dtype_name", "with_dtype"]

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
"""What sums may read and write."""
ROUNDED = frozenset({"F16", "BF16"})
"""Floats of so few bits that the last ones of a float64 sum do not show: any machine gives the same bytes."""

DTYPES_BY_NAME: Mapping[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""Floats as configurations and manifests write them -> as safetensors does."""

_DTYPE_KEYS = ("dtype", "torch_dtype")

_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def dtype_name(tensor: torch.Tensor) -> str:
    """The safetensors name of a tensor's dtype.

    Raises:
        InvalidError: Safetensors has no such dtype.
    """
    name = _NAMES.get(tensor.dtype)
    if name is None:
        raise InvalidError(
            f"tensors of {tensor.dtype} cannot be stored",
            where="safetensors",
            mend=f"convert to one of {', '.join(TORCH_DTYPES)}",
        )
    return name


def with_dtype(config: Mapping[str, JSON], dtype: str) -> dict[str, JSON]:
    """A model's configuration with another dtype: wherever it names one, also for the parts of a model, and at the top.

    Args:
        config: The value of ``config.json``.
        dtype: As configurations write it, such as ``bfloat16``.
    """
    said = _renamed_dtypes(config, dtype)
    return said if any(key in said for key in _DTYPE_KEYS) else {**said, "dtype": dtype}


def _renamed_dtypes(table: Mapping[str, JSON], dtype: str) -> dict[str, JSON]:
    return {
        key: dtype
        if key in _DTYPE_KEYS
        else _renamed_dtypes(value, dtype)
        if isinstance(value, dict) and key.endswith("_config")
        else value
        for key, value in table.items()
    }
