"""LoKr: ``W + scale * kron(W1, W2)``, each of both whole or a product (Yeh et al., 2023, arXiv:2309.14859)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import torch

from builder.weights.method import Method, Subject, load_float64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["LOKR"]

_MATRIX = 2

_Matrix: TypeAlias = "tuple[Stored, ...]"  # one, or two factors


@dataclass(frozen=True, kw_only=True, slots=True)
class _KroneckerProduct:
    """Adds ``scale * kron(left, right)``.

    Attributes:
        left: Shape ``[a, c]``, or factors ``[a, rank]`` and ``[rank, c]``.
        right: Shape ``[b, d]``, or factors; the weight is ``[a * b, c * d]``.
        scale: Of the product; no unit.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    left: _Matrix
    right: _Matrix
    scale: float

    def load(self, device: torch.device) -> LoadedEffect:
        """Read both matrices.

        Raises:
            InvalidError: One of them holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        left, right = ([load_float64(stored, device) for stored in matrix] for matrix in (self.left, self.right))
        return _Loaded(left=(left[0] if len(left) == 1 else left[0] @ left[1]).mul_(self.scale), right=tuple(right))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """``left`` is whole, being the smaller one; of ``right`` a block's rows are made when they are asked for."""

    left: torch.Tensor
    right: tuple[torch.Tensor, ...]

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        rows = torch.arange(at.rows.start, at.rows.stop, device=weight.device)
        height = len(self.right[0])
        left, right = self.left[rows // height], self.right[0][rows % height]
        if len(self.right) > 1:
            right = right @ self.right[1]
        product = (left[:, :, None] * right[:, None, :]).view(len(rows), left.shape[1] * right.shape[1])
        weight.add_(product[:, at.columns], alpha=scale)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, module = subject.config, subject.module
    rank = config.count("r", module, patterns="rank_pattern", default=8)
    left, right = _leaves(subject, "lokr_w1"), _leaves(subject, "lokr_w2")
    subject.only(*left, *right)
    effect = _KroneckerProduct(
        left=tuple(_matrix(subject, leaf, rank) for leaf in left),
        right=tuple(_matrix(subject, leaf, rank) for leaf in right),
        scale=config.number("alpha", module, patterns="alpha_pattern", default=8) / rank,
    )
    return {"weight": effect}


def _leaves(subject: Subject, name: str) -> tuple[str, ...]:
    """How one of both matrices was kept: whole, or as two factors."""
    return (name,) if name in subject.tensors else (f"{name}_a", f"{name}_b")


def _matrix(subject: Subject, leaf: str, rank: int) -> Stored:
    """A tensor with two dimensions, a factor's inner one the rank; that the outer ones fit, the site has seen."""
    shape = subject.stored(leaf).info.shape
    if len(shape) != _MATRIX:
        raise subject.refused(leaf, f"is {list(shape)}, which is no matrix", "save the adapter again")
    rows, columns = shape
    return subject.stored(leaf, rank if leaf.endswith("_b") else rows, rank if leaf.endswith("_a") else columns)


def _features(tensors: Mapping[str, Stored]) -> tuple[int, int] | None:
    """``(out, in)`` by the shapes of both matrices."""
    rows = columns = 1
    for name in ("lokr_w1", "lokr_w2"):
        up, down = tensors.get(name, tensors.get(f"{name}_a")), tensors.get(name, tensors.get(f"{name}_b"))
        if up is None or down is None or len(up.info.shape) != _MATRIX or len(down.info.shape) != _MATRIX:
            return None
        rows, columns = rows * up.info.shape[0], columns * down.info.shape[1]
    return rows, columns


LOKR = Method(
    leaves=frozenset({"lokr_t2", "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"}),
    effects=_effects,
    features=_features,
    on_embeddings=False,
    on_conv1d=False,
    read=frozenset({"alpha", "alpha_pattern", "r", "rank_pattern"}),
    silent=frozenset(
        {
            "decompose_both",  # this, the factor and the rank say which tensors there are and how large they are
            "decompose_factor",
            "init_weights",
            "module_dropout",
            "rank_dropout",
            "rank_dropout_scale",
            "use_effective_conv2d",
        }
    ),
)
