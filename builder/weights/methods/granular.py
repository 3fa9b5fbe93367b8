"""GraLoRA: a LoRA of its own for each of ``k * k`` blocks of the weight (Jung et al., 2025, arXiv:2505.20355)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from builder.weights.method import Method, Subject, load_float64
from builder.weights.methods.lora import LowRank

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["GRALORA"]

_GENERAL = ("gralora_A_general.weight", "gralora_B_general.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class _BlockProducts:
    """Adds to block ``(i, j)`` of the weight ``scale * B[i, j] @ A[i, j]``, each of rank ``r / k``.

    Attributes:
        down: All A: ``[k, in / k, r]``; of column ``j``, the share ``i`` of ``r`` is for block ``(i, j)``.
        up: All B: ``[k, r, out / k]``; of row ``i``, the share ``j`` of ``r`` is for block ``(i, j)``.
        scale: Of the products; no unit.
        general: A plain LoRA beside them; ``None`` where there is none.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    down: Stored
    up: Stored
    scale: float
    general: LowRank | None

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the factors.

        Raises:
            InvalidError: A factor holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _Loaded(
            down=load_float64(self.down, device),
            up=load_float64(self.up, device).mul_(self.scale),
            general=None if self.general is None else self.general.load(device),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    down: torch.Tensor
    up: torch.Tensor
    general: LoadedEffect | None

    def apply(self, weight: torch.Tensor, base: torch.Tensor, at: Block, scale: float) -> None:
        blocks, width, rank = self.down.shape
        share = rank // blocks
        for i, rows, up_columns in _overlaps(at.rows, self.up.shape[2]):
            for j, columns, down_rows in _overlaps(at.columns, width):
                up = self.up[i, j * share : (j + 1) * share, up_columns]
                down = self.down[j, down_rows, i * share : (i + 1) * share]
                weight[rows, columns].addmm_(up.T, down.T, alpha=scale)
        if self.general is not None:
            self.general.apply(weight, base, at, scale)


def _overlaps(part: slice, length: int) -> Iterator[tuple[int, slice, slice]]:
    """The blocks of a length that a part of a dimension meets: number, place in the part, place in the block."""
    for number in range(part.start // length, -(-part.stop // length)):
        start, stop = max(part.start, number * length), min(part.stop, (number + 1) * length)
        yield (
            number,
            slice(start - part.start, stop - part.start),
            slice(start - number * length, stop - number * length),
        )


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, (rows, columns) = subject.config, subject.shape
    blocks, rank = config.count("gralora_k", default=2), config.count("r", default=32)
    beside = config.count("hybrid_r") if config.values.get("hybrid_r") else 0
    if rank % blocks or rows % blocks or columns % blocks:
        problem = f"gralora_k = {blocks} divides not all of r = {rank} and [{rows}, {columns}] of {subject.module}"
        raise config.refused(problem, "fold it into the model that it was trained on")
    scale = config.number("alpha", default=64) / (rank + beside)
    subject.only("gralora_A", "gralora_B", *(_GENERAL if beside else ()))
    general = None
    if beside:
        down, up = subject.stored(_GENERAL[0], beside, columns), subject.stored(_GENERAL[1], rows, beside)
        general = LowRank(down=down, up=up, scale=scale)
    effect = _BlockProducts(
        down=subject.stored("gralora_A", blocks, columns // blocks, rank),
        up=subject.stored("gralora_B", blocks, rank, rows // blocks),
        scale=scale,
        general=general,
    )
    return {"weight": effect}


def _features(tensors: Mapping[str, Stored]) -> tuple[int, int] | None:
    """``(out, in)`` by the factors' shapes."""
    up, down, cube = tensors.get("gralora_B"), tensors.get("gralora_A"), 3
    if up is None or down is None or len(up.info.shape) != cube or len(down.info.shape) != cube:
        return None
    return up.info.shape[0] * up.info.shape[2], down.info.shape[0] * down.info.shape[1]


GRALORA = Method(
    leaves=frozenset({"gralora_A", "gralora_B", *_GENERAL}),
    effects=_effects,
    features=_features,
    on_embeddings=False,
    read=frozenset({"alpha", "fan_in_fan_out", "gralora_k", "hybrid_r", "r"}),
    silent=frozenset({"gralora_dropout", "init_weights"}),
)
