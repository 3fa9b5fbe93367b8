"""HRA: the weight's inputs reflected at a few hyperplanes (Yuan et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["HRA"]

_PARALLEL = 1e-8  # what is left of a vector, as a share of it, that is no direction but the noise of arithmetic


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reflections:
    """``weight @ (I - 2 u1 u1.T) @ (I - 2 u2 u2.T) @ ...``, each ``u`` a column of length 1.

    Attributes:
        vectors: Columns of any length, shape ``[in, rank]``.
        orthogonal: The columns are made orthogonal first (Gram-Schmidt); the reflections then commute.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "row"

    vectors: Stored
    orthogonal: bool

    def load(self, device: torch.device) -> LoadedEffect:
        """Multiply the reflections out, as ``I - left @ right`` of the same rank (Bischof and Van Loan, 1987).

        Raises:
            InvalidError: The vectors hold NaN or an infinity, or one of them has no direction.
            OSError: The file cannot be read.
        """
        vectors = load_float64(self.vectors, device)
        made: list[torch.Tensor] = []
        for index, vector in enumerate(vectors.T):
            rest = vector
            for unit in made if self.orthogonal else ():
                rest = rest - (unit @ rest) * unit
            length = torch.linalg.vector_norm(rest)
            if not length > _PARALLEL * torch.linalg.vector_norm(vector):
                raise self._no_direction(index)
            made.append(rest / length)
        units = torch.stack(made)
        mixed = units.new_zeros(len(made), len(made))  # left = units.T @ mixed
        for index, unit in enumerate(made):
            mixed[index, index] = 2.0
            if not self.orthogonal:
                mixed[:index, index] = mixed[:index, :index] @ (units[:index] @ unit) * -2.0
        return _Reflected(left=units.T @ mixed, right=units)

    def _no_direction(self, index: int) -> InvalidError:
        depends = ", or depends on those before it" if self.orthogonal else ""
        return InvalidError(
            f"column {index} of tensor {self.vectors.info.name!r} is zero{depends}: it reflects nothing",
            where=str(self.vectors.path),
            mend="train the adapter again; where columns depend on each other, with apply_GS = false",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reflected:
    left: torch.Tensor
    right: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, _at: Block, _scale: float) -> None:
        weight.addmm_(weight @ self.left, self.right, alpha=-1.0)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    vectors = subject.stored("hra_u", subject.shape[1], subject.config.count("r", default=8))
    return {"weight": _Reflections(vectors=vectors, orthogonal=subject.config.flag("apply_GS"))}


HRA = Method(
    leaves=frozenset({"hra_u"}),
    effects=_effects,
    read=frozenset({"apply_GS", "r"}),
    silent=frozenset({"init_weights"}),
    on_embeddings=False,
    on_conv1d=False,
)
