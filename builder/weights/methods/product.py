"""A product of two thin factors, added to a weight: what LoRA and many of its kin come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from builder.weights.method import load_float64

if TYPE_CHECKING:
    import torch

    from builder.weights.effect import Block, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["LowRank", "Product"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRank:
    """Adds ``scale * up @ down``.

    Attributes:
        down: Factor A, shape ``[rank, in]``.
        up: Factor B, shape ``[out, rank]``.
        scale: Of the product; no unit.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    down: Stored
    up: Stored
    scale: float

    def load(self, device: torch.device) -> LoadedEffect:
        """Read both factors.

        Raises:
            InvalidError: A factor holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        up = load_float64(self.up, device).mul_(self.scale)
        return Product(up=up, down=load_float64(self.down, device))


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """Two factors in memory, in float64.

    Attributes:
        up: Shape ``[out, rank]``.
        down: Shape ``[rank, in]``.
    """

    up: torch.Tensor
    down: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        """Add ``scale * up @ down``."""
        weight.addmm_(self.up[at.rows], self.down[:, at.columns], alpha=scale)
