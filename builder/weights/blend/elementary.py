"""Elementary functions in float64, from operations that every machine rounds alike: + - * / and the square root.

Those of torch and of the C library differ in the last bits from one processor or release to the next, which may tip a
rounding. Here the argument is reduced and a power series summed; results are off by a few units in the last place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.weights.stream import Scratch

__all__ = ["arccos", "cosine", "exponential", "logarithm", "sine"]

# Constants in parts; the first ones have so few bits that their product with a whole number below 2**20 is exact.
_PI: Final = tuple(map(float.fromhex, ("0x1.921fb54400000p+1", "0x1.0b4611a600000p-33", "0x1.3198a2e037073p-68")))
_LN2: Final = tuple(map(float.fromhex, ("0x1.62e42fee00000p-1", "0x1.a39ef35793c76p-33")))
_BITS: Final = 52  # of a float64's mantissa
_BIAS: Final = 1023  # of its exponent
_ROOT_HALF: Final = 0x3FE6A09E667F3BCD  # bits of the square root of one half
_LEAST: Final = -708.0  # exp of less is no normal number

_SINE: Final = [(-1) ** k / math.factorial(2 * k + 1) for k in range(12)]
_ARCTAN: Final = [(-1) ** k / (2 * k + 1) for k in range(10)]
_EXPONENTIAL: Final = [1 / math.factorial(k) for k in range(15)]
_LOGARITHM: Final = [2 / (2 * k + 1) for k in range(12)]


def sine(angle: torch.Tensor) -> torch.Tensor:
    """The sine of angles in radians, float64, any shape; up to about a million turns."""
    turns = torch.round(angle / math.pi)
    rest = angle - turns * _PI[0] - turns * _PI[1] - turns * _PI[2]
    odd = turns - torch.floor(turns / 2) * 2
    return _series(_SINE, rest * rest, torch.empty_like(rest)) * rest * (1 - 2 * odd)


def cosine(angle: torch.Tensor) -> torch.Tensor:
    """The cosine of angles in radians, float64, any shape."""
    return sine(angle + math.pi / 2)


def arccos(value: torch.Tensor) -> torch.Tensor:
    """The angle from 0 to pi, in radians, of cosines from -1 to 1; float64, any shape."""
    half = torch.sqrt((1 - value.abs()) / 2)  # sine of half of the acute angle
    tangent = half / torch.sqrt(1 - half * half)
    for _ in range(3):  # from 1 to 0.0985 at most: each step halves the angle
        tangent = tangent / (1 + torch.sqrt(1 + tangent * tangent))
    angle = _series(_ARCTAN, tangent * tangent, torch.empty_like(tangent)) * tangent * 16
    return torch.where(value < 0, math.pi - angle, angle)


def exponential(values: torch.Tensor, scratch: Scratch) -> torch.Tensor:
    """The exponential of numbers up to 0, in place; float64, shape ``[count]``. Below -708 they count as -708."""
    rest = values.clamp_(min=_LEAST)
    turns = torch.mul(rest, 1 / math.log(2), out=scratch.host("turns", "F64", values.numel())).round_()
    total = scratch.host("series", "F64", values.numel())
    for part in _LN2:
        rest.sub_(torch.mul(turns, part, out=total))
    _series(_EXPONENTIAL, rest, total)
    whole = scratch.host("work", "I64", values.numel()).copy_(turns)
    power = whole.add_(_BIAS).bitwise_left_shift_(_BITS).view(torch.float64)  # two to the power of the turns
    return torch.mul(total, power, out=values)


def logarithm(values: torch.Tensor, scratch: Scratch) -> torch.Tensor:
    """The natural logarithm of positive normal numbers, in place; float64, shape ``[count]``."""
    bits = values.view(torch.int64)
    # The mantissa is taken from the square root of one half to that of two, so that its logarithm is small.
    whole = torch.sub(bits, _ROOT_HALF, out=scratch.host("work", "I64", values.numel())).bitwise_right_shift_(_BITS)
    turns = scratch.host("turns", "F64", values.numel()).copy_(whole)
    bits.sub_(whole.bitwise_left_shift_(_BITS))
    below = torch.add(values, 1, out=scratch.host("series", "F64", values.numel()))
    share = values.sub_(1).div_(below)
    square = torch.mul(share, share, out=whole.view(torch.float64))
    share.mul_(_series(_LOGARITHM, square, below))
    for part in reversed(_LN2):
        share.add_(torch.mul(turns, part, out=below))
    return share


def _series(coefficients: Sequence[float], variable: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """A power series by Horner's rule, into ``total``."""
    total.fill_(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total.mul_(variable).add_(coefficient)
    return total
