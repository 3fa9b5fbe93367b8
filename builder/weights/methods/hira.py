"""HiRA: ``W * (1 + B @ A)``, element by element (Huang et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from builder.weights.method import Method, Subject, load_float64

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["HIRA", "Amplified"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Amplified:
    """Adds ``base * (up @ down)``: what each element is multiplied by has a low rank, what is added has not.

    Attributes:
        down: Factor A, shape ``[rank, in]``.
        up: Factor B, shape ``[out, rank]``.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "element"

    down: Stored
    up: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Read both factors.

        Raises:
            InvalidError: A factor holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _Amplified(up=load_float64(self.up, device), down=load_float64(self.down, device))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Amplified:
    up: torch.Tensor
    down: torch.Tensor

    def apply(self, weight: torch.Tensor, base: torch.Tensor, at: Block, _scale: float) -> None:
        # PEFT multiplies the base as it was, whatever was merged before.
        weight.addcmul_(base, self.up[at.rows] @ self.down[:, at.columns])


def _effects(subject: Subject) -> Mapping[str, Effect]:
    kind = "hira_embedding_{}" if subject.embedding else "hira_{}"
    rows, columns = subject.shape
    # The tensors say the rank: PEFT takes rank_pattern for a second adapter only, and nothing else depends on it.
    down = subject.stored(kind.format("A"))
    rank = down.info.shape[0] if down.info.shape else 0
    effect = Amplified(
        down=subject.stored(kind.format("A"), rank, columns), up=subject.stored(kind.format("B"), rows, rank)
    )
    return {"weight": effect}


def _features(tensors: Mapping[str, Stored]) -> tuple[int, int] | None:
    """``(out, in)`` by the factors' shapes."""
    up = tensors.get("hira_B") or tensors.get("hira_embedding_B")
    down = tensors.get("hira_A") or tensors.get("hira_embedding_A")
    matrix = 2
    if up is None or down is None or len(up.info.shape) != matrix or len(down.info.shape) != matrix:
        return None
    return up.info.shape[0], down.info.shape[1]


HIRA = Method(
    leaves=frozenset({"hira_A", "hira_B", "hira_embedding_A", "hira_embedding_B"}),
    effects=_effects,
    features=_features,
    read=frozenset({"fan_in_fan_out"}),
    silent=frozenset({"hira_dropout", "init_weights", "r", "rank_pattern"}),
)
