"""The dtypes of safetensors and of torch, by each other's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FLOATS", "TORCH_DTYPES", "dtype_name"]

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
