"""BEFT: a vector added to the bias of a linear module (2025, https://arxiv.org/abs/2509.15974)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from builder.weights.method import Method, Subject, load_float64

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["BEFT"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _AddedVector:
    """Adds a vector to a bias.

    Attributes:
        values: Shape ``[1, out]``.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    values: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the vector.

        Raises:
            InvalidError: It holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _Values(values=load_float64(self.values, device))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Values:
    values: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        weight.add_(self.values[at.rows, at.columns], alpha=scale)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    return {"bias": _AddedVector(values=subject.stored("beft_bias", 1, subject.shape[0]))}


BEFT = Method(
    leaves=frozenset({"beft_bias"}),
    effects=_effects,
    silent=frozenset({"init_weights"}),
    on_embeddings=False,
    on_conv1d=False,
)
