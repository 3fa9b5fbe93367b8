"""DeLoRA: a low-rank sum whose strength and direction are apart (Bini et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64
from builder.weights.methods.lora import Product

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["DELORA"]

_SHORTEST = 1e-4  # vectors are not made longer than they would be from this length


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bounded:
    """Adds ``strength / rank * (up / |columns|) @ (down / |rows|) * norms``, each vector of both factors of length 1.

    Attributes:
        down: Factor A, shape ``[rank, in]``.
        up: Factor B, shape ``[out, rank]``.
        strength: Lambda, shape ``[1]``; no unit.
        norms: Norm of each column of the base when training began, shape ``[in]``.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    down: Stored
    up: Stored
    strength: Stored
    norms: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the factors and scale them.

        Raises:
            InvalidError: A tensor holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        down, up = load_float64(self.down, device), load_float64(self.up, device)
        lengths = _lengths(up, dim=0) * _lengths(down, dim=1)
        factors = load_float64(self.strength, device) / len(down) / lengths
        return Product(up=up * factors, down=down * load_float64(self.norms, device))


def _lengths(vectors: torch.Tensor, *, dim: int) -> torch.Tensor:
    lengths: torch.Tensor = torch.linalg.vector_norm(vectors, dim=dim)
    return lengths.clamp(min=_SHORTEST)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    rank = subject.config.count("r", subject.module, patterns="rank_pattern", default=8)
    rows, columns = subject.shape
    effect = _Bounded(
        down=subject.stored("delora_A", rank, columns),
        up=subject.stored("delora_B", rows, rank),
        strength=subject.stored("delora_lambda", 1),
        norms=subject.stored("delora_w_norm", columns),
    )
    return {"weight": effect}


DELORA = Method(
    leaves=frozenset({"delora_A", "delora_B", "delora_lambda", "delora_w_norm"}),
    effects=_effects,
    read=frozenset({"r", "rank_pattern"}),
    silent=frozenset({"delora_lambda", "init_weights", "lambda_pattern", "module_dropout"}),
    on_embeddings=False,
    on_conv1d=False,
)
