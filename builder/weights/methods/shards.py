"""MiSS: one small matrix for all shards of a weight (Kang and Yin, 2024, arXiv:2409.15371)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["MISS"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _RepeatedShard:
    """Adds ``shard[column % rank, row % width]`` to every element.

    Attributes:
        shard: Shape ``[rank, width]``; the width is ``out``, or in the variant ``mini`` a divisor of it.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    shard: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the shard.

        Raises:
            InvalidError: It holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _LoadedShard(shard=load_float64(self.shard, device).T.contiguous())


@dataclass(frozen=True, kw_only=True, slots=True)
class _LoadedShard:
    shard: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        rows, columns = _numbers(at.rows, self.shard), _numbers(at.columns, self.shard)
        width, rank = self.shard.shape
        weight.add_(self.shard[rows % width][:, columns % rank], alpha=scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class _MultipliedShards:
    """The variant ``bat``: turns each block of ``rank * rank`` elements into ``block + block @ shard + shard``.

    Attributes:
        shards: One for each row of blocks, shape ``[out / rank, rank, rank]``.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "row"

    shards: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the shards.

        Raises:
            InvalidError: They hold NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _LoadedShards(shards=load_float64(self.shards, device))


@dataclass(frozen=True, kw_only=True, slots=True)
class _LoadedShards:
    shards: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, _scale: float) -> None:
        rank = self.shards.shape[1]
        for number in range(at.rows.start // rank, -(-at.rows.stop // rank)):
            start, stop = max(at.rows.start, number * rank), min(at.rows.stop, (number + 1) * rank)
            rows = weight[start - at.rows.start : stop - at.rows.start]
            blocks = rows.reshape(stop - start, -1, rank)
            product = blocks @ self.shards[number]
            added = product + self.shards[number, start - number * rank : stop - number * rank, None]
            rows.add_(added.view(rows.shape))


def _numbers(part: slice, beside: torch.Tensor) -> torch.Tensor:
    return torch.arange(part.start, part.stop, device=beside.device)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, (rows, columns) = subject.config, subject.shape
    rank, start = config.count("r", default=64), config.values.get("init_weights", True)
    if start == "bat":
        if rows % rank or columns % rank:
            problem = f"r = {rank} does not divide [{rows}, {columns}] of {subject.module}, as bat needs it"
            raise config.refused(problem, "fold it into the model that it was trained on")
        return {"weight": _MultipliedShards(shards=subject.stored("miss_block", rows // rank, rank, rank))}
    width = rows
    if start == "mini":
        width = config.count("mini_r", default=1)
        if rows % width:
            problem = f"mini_r = {width} does not divide the {rows} rows of {subject.module}"
            raise config.refused(problem, "fold it into the model that it was trained on")
    elif start is not None and not isinstance(start, bool):
        raise config.refused(f"init_weights = {start!r} is not known", "train with init_weights bat, mini or true")
    return {"weight": _RepeatedShard(shard=subject.stored("miss_block", rank, width))}


MISS = Method(
    leaves=frozenset({"miss_block"}),
    effects=_effects,
    on_embeddings=False,
    on_conv1d=False,
    read=frozenset({"init_weights", "mini_r", "r"}),
    silent=frozenset({"miss_dropout"}),
)
