"""One rounding, exact: float64 to the dtype that a weight is stored in.

torch casts float64 to a 16-bit dtype by way of float32, which rounds twice and is wrong at some ties. Here float64
becomes float32 *rounded to odd* (cut off, with the last bit set when anything was lost), and 16 bits are then rounded
to nearest from that; with 24 bits against 8 or 11 this gives the nearest value, ties to even (Boldo and Melquiond,
2008). So the bytes depend on the float64 value alone, on every device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from builder.weights.dtypes import FLOATS, dtype_name

if TYPE_CHECKING:
    from builder.weights.stream import Scratch

__all__ = ["is_finite", "round_once"]

_LOST_BITS = (1 << 29) - 1  # of a float64's 52 mantissa bits, those that float32 has no room for
_BF16_LOW_EXPONENT = 0x0080  # exponent field of the smallest normal number
_BF16_SUBNORMAL_SHIFT = 1.5 * 2.0 ** (52 - 133)  # adding it rounds to multiples of 2**-133, the smallest BF16
_INTEGERS = {"F16": torch.int16, "BF16": torch.int16, "F32": torch.int32, "F64": torch.int64}
_EXPONENTS = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}


def round_once(total: torch.Tensor, out: torch.Tensor, scratch: Scratch) -> bool:
    """Round float64 to the dtype of ``out``: to the nearest value, ties to even, subnormals kept.

    Args:
        total: float64, shape ``[count]``, contiguous; its content is lost.
        out: float16, bfloat16, float32 or float64, shape ``[count]``, contiguous.
        scratch: Buffers to work in.

    Returns:
        Whether every element came out finite: no NaN, no infinity, nothing beyond the dtype's range.
    """
    if out.dtype not in {torch.float16, torch.bfloat16} or not out.numel():
        out.copy_(total)  # to float32 torch rounds once
        return is_finite(out, scratch)
    bits = total.view(torch.int64)
    lost = torch.bitwise_and(bits, _LOST_BITS, out=scratch.tensor("work", "I64", total.numel(), device=total.device))
    lost.add_(_LOST_BITS)  # carries into the last kept bit exactly when something is lost
    bits.bitwise_or_(lost).bitwise_and_(~_LOST_BITS)
    out.copy_(scratch.tensor("single", "F32", total.numel(), device=total.device).copy_(total))
    lowest, highest = _exponents(out, scratch)
    if out.dtype == torch.bfloat16 and lowest <= _BF16_LOW_EXPONENT:
        _round_tiny(total, out, scratch)
    return highest != _EXPONENTS[dtype_name(out)]


def _round_tiny(total: torch.Tensor, out: torch.Tensor, scratch: Scratch) -> None:
    """Round again what lies below BF16's normal numbers: there float32 has too few bits for rounding to odd."""
    exponents = scratch.tensor("work", "I16", out.numel(), device=out.device).cpu().numpy()  # as _exponents left them
    places = torch.from_numpy(np.flatnonzero(exponents <= _BF16_LOW_EXPONENT)).to(out.device)
    tiny = total[places]
    rounded = (tiny.abs() + _BF16_SUBNORMAL_SHIFT) - _BF16_SUBNORMAL_SHIFT
    out[places] = rounded.copysign(tiny).to(torch.float32).to(torch.bfloat16)


def is_finite(values: torch.Tensor, scratch: Scratch) -> bool:
    """Whether no element is NaN or an infinity; whole numbers always are finite.

    Args:
        values: Any dtype, shape ``[count]``, contiguous.
        scratch: Buffers to work in.
    """
    name = dtype_name(values)
    return name not in FLOATS or not values.numel() or _exponents(values, scratch)[1] != _EXPONENTS[name]


def _exponents(values: torch.Tensor, scratch: Scratch) -> tuple[int, int]:
    """Lowest and highest exponent field, in its place among the bits."""
    name = dtype_name(values)
    whole = _INTEGERS[name]
    masked = scratch.tensor("work", dtype_name(values.view(whole)), values.numel(), device=values.device)
    torch.bitwise_and(values.view(whole), _EXPONENTS[name], out=masked)
    lowest, highest = torch.aminmax(masked)
    return int(lowest), int(highest)
