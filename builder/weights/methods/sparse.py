"""Values at chosen places of a weight: SHiRA (Bhardwaj et al., 2024), Super-Tuning and its hybrid with LoRA (2026).

SHiRA: https://arxiv.org/abs/2406.13175; Super-Tuning: https://arxiv.org/abs/2607.09287.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64, load_indices
from builder.weights.methods.lora import LowRank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["SHIRA", "SUPERTUNING"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sparse:
    """Adds values at places of a weight; those that share a place are summed.

    Attributes:
        places: Whole numbers: rows and columns, shape ``[2, count]``, or places counted row by row, shape ``[count]``.
        values: Shape ``[count]``.
        shape: ``(out, in)`` of the weight.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    places: Stored
    values: Stored
    shape: tuple[int, int]

    def load(self, device: torch.device) -> LoadedEffect:
        """Read places and values.

        Raises:
            InvalidError: A place outside the weight, or NaN or an infinity.
            OSError: The file cannot be read.
        """
        height, width = self.shape
        if len(self.places.info.shape) > 1:
            rows, columns = load_indices(self.places, height, width)
        else:
            places = load_indices(self.places, height * width)
            rows, columns = places // width, places % width
        order = torch.argsort(rows, stable=True)  # so that a block finds its own without looking at all
        return _Entries(
            rows=rows[order].to(device),
            columns=columns[order].to(device),
            values=load_float64(self.values, device)[order.to(device)],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entries:
    """Places and values, by row."""

    rows: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        bounds = torch.tensor([at.rows.start, at.rows.stop], device=self.rows.device)
        first, last = torch.searchsorted(self.rows, bounds).tolist()
        rows, columns, values = (one[first:last] for one in (self.rows, self.columns, self.values))
        here = (columns >= at.columns.start) & (columns < at.columns.stop)
        places = (rows[here] - at.rows.start, columns[here] - at.columns.start)
        weight.index_put_(places, values[here] * scale, accumulate=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _SparseAndLowRank:
    """Adds values at places, and a product of two factors."""

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    sparse: _Sparse
    product: LowRank

    def load(self, device: torch.device) -> LoadedEffect:
        """Read both.

        Raises:
            InvalidError: A place outside the weight, or NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _Both(sparse=self.sparse.load(device), product=self.product.load(device))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Both:
    sparse: LoadedEffect
    product: LoadedEffect

    def apply(self, weight: torch.Tensor, base: torch.Tensor, at: Block, scale: float) -> None:
        self.sparse.apply(weight, base, at, scale)
        self.product.apply(weight, base, at, scale)


def _shira(subject: Subject) -> Mapping[str, Effect]:
    count = subject.config.count("r", default=32) * sum(subject.shape)
    places, values = subject.stored("shira_indices", 2, count), subject.stored("shira_weight", count)
    return {"weight": _Sparse(places=places, values=values, shape=subject.shape)}


def _supertuning(subject: Subject) -> Mapping[str, Effect]:
    config, (rows, columns) = subject.config, subject.shape
    count = int(rows * columns * (1 - config.number("sparsity", default=0.99)))
    places, values = subject.stored("supertuning_indices", count), subject.stored("supertuning_values", count)
    sparse = _Sparse(places=places, values=values, shape=subject.shape)
    if config.values.get("r") is None:
        subject.only("supertuning_indices", "supertuning_values")
        return {"weight": sparse}
    rank = config.count("r")
    product = LowRank(
        down=subject.stored("supertuning_lora_A.weight", rank, columns),
        up=subject.stored("supertuning_lora_B.weight", rows, rank),
        scale=config.number("lora_alpha", default=2 * rank) / rank,
    )
    return {"weight": _SparseAndLowRank(sparse=sparse, product=product)}


SHIRA = Method(
    leaves=frozenset({"shira_indices", "shira_weight"}),
    indices=frozenset({"shira_indices"}),
    effects=_shira,
    read=frozenset({"r"}),
    silent=frozenset({"fan_in_fan_out", "init_weights", "mask_type", "random_seed"}),
    on_embeddings=False,
    on_conv1d=False,
)

SUPERTUNING = Method(
    leaves=frozenset(
        {
            "supertuning_indices",
            "supertuning_lora_A.weight",
            "supertuning_lora_B.weight",
            "supertuning_values",
        }
    ),
    indices=frozenset({"supertuning_indices"}),
    effects=_supertuning,
    read=frozenset({"lora_alpha", "r", "sparsity"}),
    silent=frozenset({"init_weights", "lora_dropout", "select_top"}),
    needed={
        "save_precomputed_indices": (
            "the places of its values are not saved, and among equal magnitudes of the base PEFT's choice is open"
        )
    },
    on_embeddings=False,
    on_conv1d=False,
)
