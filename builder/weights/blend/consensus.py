"""Task vectors put together: summed, or only those that agree with the sign of their sum (TIES: Yadav et al., 2023)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.weights.blend.operands import Operands

__all__ = ["NOBODY", "elect"]

NOBODY: Final = sys.float_info.min
"""Least divisor where no share is negative: so small that it changes none, and nothing over it is nothing."""

_SIGN: Final = -(1 << 63)  # the sign bit of a float64


def elect(
    operands: Operands,
    votes: Sequence[torch.Tensor],
    *,
    factors: Sequence[float],
    shares: Sequence[float] | None,
    least: float,
) -> torch.Tensor:
    """Sum what agrees with the sign of the sum of all; where that is zero, with plus.

    Args:
        operands: Has the buffers.
        votes: Task vectors, float64, shape ``[elements]`` each; their content is lost.
        factors: Of each vote, when those that agree are summed.
        shares: What the sum is divided by: the shares of those that agree; ``None`` for no division.
        least: Divisor where the shares' sum is smaller; where shares may be negative, 1 is taken for a sum of 0.

    Returns:
        float64, shape ``[elements]``; good until the next call.
    """
    total = operands.buffer("total", votes[0])
    total = torch.add(votes[0], votes[1], out=total) if len(votes) > 1 else total.copy_(votes[0])
    for vote in votes[2:]:
        total.add_(vote)
    sign = total.view(torch.int64).bitwise_and_(_SIGN)
    mixed, part = operands.buffer("mixed", total), operands.buffer("part", total)
    for number, (vote, factor) in enumerate(zip(votes, factors, strict=True)):
        vote.view(torch.int64).bitwise_xor_(sign)  # positive where it agrees
        agreed = torch.clamp(vote, min=0, out=part if number else mixed)
        if factor != 1:
            agreed.mul_(factor)
        if number:
            mixed.add_(agreed)
    if shares is not None:
        mixed.div_(_divisor(votes, shares, least))
    mixed.view(torch.int64).bitwise_xor_(sign)
    return mixed


def _divisor(votes: Sequence[torch.Tensor], shares: Sequence[float], least: float) -> torch.Tensor:
    """The sum of the shares of those votes that are positive, in the place of the first vote."""
    for vote, share in zip(votes, shares, strict=True):
        vote.gt_(0)
        if share != 1:
            vote.mul_(share)
    divisor = votes[0]
    for vote in votes[1:]:
        divisor.add_(vote)
    return divisor.masked_fill_(divisor == 0, 1.0) if min(shares) < 0 else divisor.clamp_(min=least)
