"""RandLoRA: a full-rank sum of random bases, scaled by small diagonal matrices (Albert et al., 2025).

https://arxiv.org/abs/2502.00987. The bases are shared by all modules, which take the corner that fits them. Only saved
ones are taken: from one seed, torch 2.11 and 2.13 draw other uniform numbers of 16 bits, which PEFT asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64
from builder.weights.stream import are_equal
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["RANDLORA"]

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class _RandomBases:
    """Adds ``scale * large @ small``, or its transpose where ``out`` is the smaller side of the weight.

    Both are seen flat: ``large`` is ``[long, bases * rank]``, ``small`` is ``[rank * bases, short]`` with
    ``small[r, b] = left[r, b] * basis[r] * right[b]``. PEFT counts the two in different orders and multiplies
    them all the same; so it is here.

    Attributes:
        basis: The smaller random basis, shape ``[rank, 1, at least short]``.
        large: The larger ones, shape ``[at least long, at least bases, rank]``.
        left: ``lambda``, shape ``[rank, bases]``.
        right: ``gamma``, shape ``[bases, short]``.
        scale: No unit.
        tall: ``in`` is the smaller side of the weight, or both are equal.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    basis: Stored
    large: Stored
    left: Stored
    right: Stored
    scale: float
    tall: bool

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the bases and their scales.

        Raises:
            InvalidError: One of them holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        left, right = load_float64(self.left, device).mul_(self.scale), load_float64(self.right, device)
        bases, short = right.shape
        large = self.large.load()  # as large as a weight, so it stays in its own dtype
        if not bool(torch.isfinite(large).all()):
            raise InvalidError(
                f"tensor {self.large.info.name!r} holds NaN or an infinity",
                where=str(self.large.path),
                mend="save the adapter again",
            )
        return _Bases(
            small=load_float64(self.basis, device)[:, 0, :short],
            large=large[:, :bases].to(device),
            left=left,
            right=right,
            tall=self.tall,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bases:
    small: torch.Tensor
    large: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    tall: bool

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        target, long, short = (weight, at.rows, at.columns) if self.tall else (weight.T, at.columns, at.rows)
        small, right = self.small[:, short], self.right[:, short]
        rank, bases = self.left.shape
        for start in range(long.start, long.stop, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, long.stop)
            large = self.large[start:stop].to(torch.float64).reshape(stop - start, rank, bases)
            rows = target[start - long.start : stop - long.start]
            for one in range(rank):
                rows.addcmul_((large[:, one] * self.left[one]) @ right, small[one], value=scale)


def _bases(least: int, rank: int) -> int:
    """How many bases make up full rank."""
    return -(-least // rank)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, (rows, columns) = subject.config, subject.shape
    rank, short = config.count("r", default=32), min(rows, columns)
    least, most = min(subject.largest), max(subject.largest)
    count = _bases(short, rank)
    return {
        "weight": _RandomBases(
            basis=_common(subject, "randlora_A", rank, 1, least),
            large=_common(subject, "randlora_B", most, _bases(least, rank), rank),
            left=subject.stored("randlora_lambda", rank, count),
            right=subject.stored("randlora_gamma", count, short),
            scale=config.number("randlora_alpha", default=640) / rank,
            tall=short == columns,
        )
    }


def _common(subject: Subject, name: str, *shape: int) -> Stored:
    """A tensor that all modules share; PEFT saves a copy of it with each of them, too."""
    shared = subject.common(name, *shape)
    if name in subject.tensors and not are_equal(subject.stored(name, *shape), shared):
        raise subject.refused(name, "differs from the one that all modules share", "save the adapter again")
    return shared


RANDLORA = Method(
    leaves=frozenset({"randlora_A", "randlora_B", "randlora_gamma", "randlora_lambda"}),
    effects=_effects,
    read=frozenset({"fan_in_fan_out", "r", "randlora_alpha"}),
    silent=frozenset({"init_weights", "projection_prng_key", "randlora_dropout", "sparse", "very_sparse"}),
    needed={
        "save_projection": (
            "its random bases are not saved; what PEFT draws again from the seed depends on the version of torch, and "
            "of sparse ones on the dtype in which it loads the base"
        )
    },
    shared=frozenset({"randlora_A", "randlora_B"}),
    on_embeddings=False,
)
