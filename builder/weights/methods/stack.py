"""LoRA on stacked matrices, such as those of experts, as PEFT has it for ``target_parameters``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from builder.weights.effect import Block
from builder.weights.method import load_float64
from builder.weights.methods.product import Product
from builder.weights.placed import LoadedPieces

if TYPE_CHECKING:
    import torch

    from builder.weights.effect import Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["FactorStack"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorStack:
    """Factors of stacked matrices: those of all of them lie in one pair of tensors.

    Attributes:
        down: Factors A, shape ``[experts * rank, in]``, one expert after the other.
        up: Factors B, shape ``[out, rank * experts]``; the columns of one expert are ``experts`` apart.
        scale: Of each product; no unit.
        experts: How many matrices.
    """

    down: Stored
    up: Stored
    scale: float
    experts: int

    def whole(self, *, transposed: bool) -> Effect:
        """The effect on the whole stack.

        Args:
            transposed: Whether it is stored as ``[experts, in, out]``; the effect then sees ``[out, experts * in]``,
                else ``[experts * out, in]``.
        """
        return _StackedLowRank(stack=self, transposed=transposed)

    def part(self, expert: int, rows: slice) -> Effect:
        """The effect on rows of one expert's matrix, ``[rows, in]``."""
        return _ExpertLowRank(stack=self, expert=expert, rows=rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class _StackedLowRank:
    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    stack: FactorStack
    transposed: bool

    def load(self, device: torch.device) -> LoadedEffect:
        """Read both tensors and take them apart."""
        stack = self.stack
        down = load_float64(stack.down, device).view(stack.experts, -1, stack.down.info.shape[1])
        up = load_float64(stack.up, device).mul_(stack.scale).view(stack.up.info.shape[0], -1, stack.experts)
        up = up.permute(2, 0, 1).contiguous()
        outs, ins = up.shape[1], down.shape[2]
        return LoadedPieces(
            pieces=tuple(
                (
                    Block(slice(0, outs), slice(expert * ins, (expert + 1) * ins))
                    if self.transposed
                    else Block(slice(expert * outs, (expert + 1) * outs), slice(0, ins)),
                    Product(up=up[expert], down=down[expert]),
                )
                for expert in range(stack.experts)
            )
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _ExpertLowRank:
    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    stack: FactorStack
    expert: int
    rows: slice

    def load(self, device: torch.device) -> LoadedEffect:
        """Read what belongs to the expert: some rows of A; of B some rows, and then every so many columns."""
        stack = self.stack
        rank = stack.down.info.shape[0] // stack.experts
        start = self.expert * rank
        up = load_float64(stack.up, device, self.rows, slice(self.expert, None, stack.experts))
        down = load_float64(stack.down, device, slice(start, start + rank))
        return Product(up=up.contiguous().mul_(stack.scale), down=down)
