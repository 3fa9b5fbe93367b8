"""LoHa: ``W + scale * (A1 @ B1) * (A2 @ B2)``, element by element (Hyeon-Woo et al., 2021, arXiv:2108.06098)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from builder.weights.method import Method, Subject, load_float64

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["LOHA"]

_FACTORS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


@dataclass(frozen=True, kw_only=True, slots=True)
class _HadamardProduct:
    """Adds ``scale * (first_up @ first_down) * (second_up @ second_down)``.

    Attributes:
        first_up: Shape ``[out, rank]``; ``second_up`` too.
        first_down: Shape ``[rank, in]``; ``second_down`` too.
        scale: Of the product; no unit.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    first_up: Stored
    first_down: Stored
    second_up: Stored
    second_down: Stored
    scale: float

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the four factors.

        Raises:
            InvalidError: A factor holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _Loaded(
            first_up=load_float64(self.first_up, device).mul_(self.scale),
            first_down=load_float64(self.first_down, device),
            second_up=load_float64(self.second_up, device),
            second_down=load_float64(self.second_down, device),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    first_up: torch.Tensor
    first_down: torch.Tensor
    second_up: torch.Tensor
    second_down: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        first = self.first_up[at.rows] @ self.first_down[:, at.columns]
        second = self.second_up[at.rows] @ self.second_down[:, at.columns]
        weight.addcmul_(first, second, value=scale)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, module, (rows, columns) = subject.config, subject.module, subject.shape
    subject.only(*_FACTORS)
    rank = config.count("r", module, patterns="rank_pattern", default=8)
    effect = _HadamardProduct(
        first_up=subject.stored("hada_w1_a", rows, rank),
        first_down=subject.stored("hada_w1_b", rank, columns),
        second_up=subject.stored("hada_w2_a", rows, rank),
        second_down=subject.stored("hada_w2_b", rank, columns),
        scale=config.number("alpha", module, patterns="alpha_pattern", default=8) / rank,
    )
    return {"weight": effect}


def _features(tensors: Mapping[str, Stored]) -> tuple[int, int] | None:
    """``(out, in)`` by the factors' shapes."""
    up, down, matrix = tensors.get("hada_w1_a"), tensors.get("hada_w1_b"), 2
    if up is None or down is None or len(up.info.shape) != matrix or len(down.info.shape) != matrix:
        return None
    return up.info.shape[0], down.info.shape[1]


LOHA = Method(
    leaves=frozenset({*_FACTORS, "hada_t1", "hada_t2"}),  # the last two are for convolutions, which have other shapes
    effects=_effects,
    features=_features,
    on_embeddings=False,
    on_conv1d=False,
    read=frozenset({"alpha", "alpha_pattern", "r", "rank_pattern"}),
    silent=frozenset({"init_weights", "module_dropout", "rank_dropout", "use_effective_conv2d"}),
)
