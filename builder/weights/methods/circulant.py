"""C3A: blocks of which each row is the one before it, turned by one place (Chen et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["C3A"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _CirculantBlocks:
    """Adds ``kernel[i, j, (column - row) % size] / in`` in each block of ``size`` rows and columns.

    PEFT gets there by Fourier transforms; written out, every element is one number of the kernel.

    Attributes:
        kernel: First rows of the blocks, shape ``[out / size, in / size, size]``.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    kernel: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the kernel.

        Raises:
            InvalidError: It holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        kernel = load_float64(self.kernel, device)
        _, blocks, size = kernel.shape
        twice = torch.cat((kernel, kernel), dim=-1).div_(blocks * size)
        return _Circulant(windows=twice.unfold(-1, size, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Circulant:
    """Shape ``[out / size, in / size, size + 1, size]``: the window at ``size - row`` is a row of the block."""

    windows: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        size = self.windows.shape[-1]
        rows = torch.arange(at.rows.start, at.rows.stop, device=weight.device)
        delta = self.windows[rows // size, :, size - rows % size].flatten(1)
        weight.add_(delta[:, at.columns], alpha=scale)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    outputs, inputs = subject.shape
    size = subject.config.count("block_size", subject.module, patterns="block_size_pattern", default=256)
    if outputs % size or inputs % size:
        problem = f"has blocks of {size}, which do not divide {[outputs, inputs]}"
        raise subject.refused("c3a_kernel", problem, "fold it into the model that it was trained on")
    kernel = subject.stored("c3a_kernel", outputs // size, inputs // size, size)
    return {"weight": _CirculantBlocks(kernel=kernel)}


C3A = Method(
    leaves=frozenset({"c3a_kernel"}),
    effects=_effects,
    read=frozenset({"block_size", "block_size_pattern"}),
    silent=frozenset({"init_weights"}),
    on_embeddings=False,
    on_conv1d=False,
)
