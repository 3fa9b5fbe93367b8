"""Parameters that an adapter holds as they shall be: they take the place of the model's, nothing is added."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from builder.weights.method import load_float64
from builder.weights.rounding import is_finite
from builder.weights.stream import Scratch, not_finite

if TYPE_CHECKING:
    import torch

    from builder.weights.effect import Applied, Block, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["Replaced", "Rows", "leaves_nothing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replaced:
    """A whole parameter that takes the place of the model's; orientation that of the file.

    Attributes:
        stored: The parameter; stacked matrices count as one tall matrix.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "element"

    stored: Stored

    def load(self, _device: torch.device) -> LoadedEffect:
        """Nothing yet: rows are read when they are asked for."""
        return _ReplacedRows(stored=self.stored)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ReplacedRows:
    stored: Stored
    scratch: Scratch = field(default_factory=Scratch)

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, _scale: float) -> None:
        info, columns = self.stored.info, weight.shape[1]
        size = info.size_bytes // math.prod(info.shape)
        values = self.scratch.host("replaced", info.dtype, weight.numel())
        block = self.scratch.bytes("replaced", weight.numel() * size)
        with self.stored.path.open("rb", buffering=0) as stream:
            self.stored.read(stream.fileno(), at.rows.start * columns * size, block)
        if not is_finite(values, self.scratch):
            raise not_finite(self.stored.spec, where=str(self.stored.path), fits=False)
        weight.copy_(values.view(weight.shape))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """New rows of an embedding for chosen tokens; orientation that of the file, ``[words, width]``.

    Attributes:
        stored: The rows, shape ``[tokens, width]``.
        tokens: Which words they are; none comes twice.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "element"

    stored: Stored
    tokens: tuple[int, ...]

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the rows.

        Raises:
            InvalidError: They hold NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _LoadedRows(values=load_float64(self.stored, device), tokens=self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class _LoadedRows:
    values: torch.Tensor
    tokens: tuple[int, ...]

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, _scale: float) -> None:
        here = [index for index, token in enumerate(self.tokens) if at.rows.start <= token < at.rows.stop]
        if here:
            weight[[self.tokens[index] - at.rows.start for index in here]] = self.values[here]


def leaves_nothing(later: Applied, before: Applied) -> bool:
    """Whether of what one effect did to a weight, or to some tokens' rows, the next one leaves nothing."""
    if later.scale != 1:
        return False
    if isinstance(later.effect, Rows) and isinstance(before.effect, Rows):
        return not set(later.effect.tokens).isdisjoint(before.effect.tokens)
    return isinstance(later.effect, Replaced)
