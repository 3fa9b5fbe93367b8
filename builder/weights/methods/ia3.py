"""(IA)^3: rows, or for feed-forward modules columns, times learnt factors (Liu et al., 2022, arXiv:2205.05638)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from builder.weights.method import Method, Subject, load_float64

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["IA3"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rescaled:
    """Multiplies every row, or every column, by a factor of its own.

    Attributes:
        factors: One for each, ``out`` or ``in`` elements of any shape.
        along: What has a factor.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "element"

    factors: Stored
    along: Literal["rows", "columns"]

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the factors.

        Raises:
            InvalidError: A factor is NaN or an infinity.
            OSError: The file cannot be read.
        """
        factors = load_float64(self.factors, device)
        return _Loaded(factors=factors.reshape(-1, 1) if self.along == "rows" else factors.reshape(1, -1))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    factors: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, _scale: float) -> None:
        weight.mul_(self.factors[:, at.columns] if self.factors.shape[0] == 1 else self.factors[at.rows])


def _effects(subject: Subject) -> Mapping[str, Effect]:
    rows, columns = subject.shape
    # A feed-forward module has a factor for each input. The shape tells, and PEFT loads no other.
    if subject.stored("ia3_l").info.shape == (1, columns) != (rows, 1):
        return {"weight": _Rescaled(factors=subject.stored("ia3_l"), along="columns")}
    factors = subject.stored("ia3_l", rows, 1)
    effects: dict[str, Effect] = {"weight": _Rescaled(factors=factors, along="rows")}
    if subject.bias is not None:
        effects["bias"] = _Rescaled(factors=factors, along="columns")  # a bias is one row
    return effects


IA3 = Method(
    leaves=frozenset({"ia3_l"}),
    effects=_effects,
    on_embeddings=False,
    read=frozenset({"fan_in_fan_out"}),
    silent=frozenset({"feedforward_modules", "init_ia3_weights"}),
)
