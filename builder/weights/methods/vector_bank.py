"""Low-rank factors put together from few shared numbers: VB-LoRA (Li et al., 2024), Uni-LoRA (2025).

VB-LoRA: https://arxiv.org/abs/2405.15179; Uni-LoRA: https://arxiv.org/abs/2506.00799.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64, load_indices
from builder.weights.methods.lora import Product
from builder.weights.stream import CPU

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["UNILORA", "VBLORA"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Logits:
    """How much of each vector of a bank the pieces of a factor take, as logits.

    Attributes:
        stored: Shape ``[a, b, vectors]`` for ``a`` times ``b`` pieces.
        top: Only so many of the largest count.
    """

    stored: Stored
    top: int

    def pieces(self, bank: torch.Tensor) -> torch.Tensor:
        """The pieces, shape ``[a, b, length]``, from a bank of shape ``[vectors, length]``; both float64.

        Raises:
            InvalidError: A logit is NaN or an infinity.
            OSError: The file cannot be read.
        """
        # A stable sort takes the first of equal logits on every machine; torch's topk leaves that open.
        logits, places = load_float64(self.stored, CPU).sort(dim=-1, descending=True, stable=True)
        weights = torch.softmax(logits[..., : self.top], dim=-1)
        return (weights[..., None] * bank[places[..., : self.top]]).sum(-2)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weights:
    """The same, as the few weights themselves, all but the last, with which they sum to 1.

    PEFT takes the logarithm of these weights in the adapter's dtype when it loads, which rounds them; here they are
    used as they are.

    Attributes:
        places: Which vectors of the bank, shape ``[a, b, top]``.
        stored: Their weights, shape ``[a, b, top - 1]``.
    """

    places: Stored
    stored: Stored

    def pieces(self, bank: torch.Tensor) -> torch.Tensor:
        """The pieces, shape ``[a, b, length]``, from a bank of shape ``[vectors, length]``; both float64.

        Raises:
            InvalidError: A place outside the bank, or a weight that is NaN or an infinity.
            OSError: The file cannot be read.
        """
        places = load_indices(self.places, bank.shape[0])
        kept = load_float64(self.stored, CPU)
        rest = (1 - kept.sum(-1, keepdim=True)).clamp(min=0)  # below 0 only by the rounding of those kept
        weights = torch.cat([kept, rest], dim=-1)
        return (weights[..., None] * bank[places]).sum(-2)


@dataclass(frozen=True, kw_only=True, slots=True)
class _BankedProduct:
    """Adds ``up @ down``, whose pieces of one length are mixtures of the vectors of a bank.

    Attributes:
        bank: Shape ``[vectors, length]``.
        down: Pieces ``[rank, in / length]``.
        up: Pieces ``[out / length, rank]``; each is a part of a column.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    bank: Stored
    down: _Logits | _Weights
    up: _Logits | _Weights

    def load(self, device: torch.device) -> LoadedEffect:
        """Put both factors together.

        Raises:
            InvalidError: A place outside the bank, or NaN or an infinity.
            OSError: The file cannot be read.
        """
        bank = load_float64(self.bank, CPU)
        down = self.down.pieces(bank).flatten(1)
        up = self.up.pieces(bank).transpose(1, 2).flatten(0, 1)
        return Product(up=up.to(device), down=down.to(device))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Picked:
    """Adds ``up @ down``, each element of which is an element of one vector, scaled.

    Attributes:
        vector: Shape ``[length]``.
        down: Places in the vector and scales, both ``[rank, in]``.
        up: Places in the vector and scales, both ``[out, rank]``.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    vector: Stored
    down: tuple[Stored, Stored]
    up: tuple[Stored, Stored]

    def load(self, device: torch.device) -> LoadedEffect:
        """Put both factors together.

        Raises:
            InvalidError: A place outside the vector, or NaN or an infinity.
            OSError: The file cannot be read.
        """
        vector = load_float64(self.vector, CPU)
        down, up = (
            vector[load_indices(one, len(vector))] * load_float64(two, CPU) for one, two in (self.down, self.up)
        )
        return Product(up=up.to(device), down=down.to(device))


def _vblora(subject: Subject) -> Mapping[str, Effect]:
    config, (rows, columns) = subject.config, subject.shape
    rank, top = config.count("r", default=4), config.count("topk", default=2)
    length, vectors = config.count("vector_length", default=256), config.count("num_vectors", default=256)
    if rows % length or columns % length:
        problem = f"is on {subject.module}, whose {rows} x {columns} is not divided by vector_length {length}"
        raise subject.refused(min(subject.tensors), problem, "fold it into the model that it was trained on")
    kept = config.flag("save_only_topk_weights")

    def pieces(leaf: str, *shape: int) -> _Logits | _Weights:
        if not kept:
            return _Logits(stored=subject.stored(leaf, *shape, vectors), top=top)
        places = subject.stored(f"{leaf}_topk_indices", *shape, top)
        return _Weights(places=places, stored=subject.stored(f"{leaf}_topk_weights", *shape, top - 1))

    product = _BankedProduct(
        bank=subject.common("vblora_vector_bank", vectors, length),
        down=pieces("vblora_logits_A", rank, columns // length),
        up=pieces("vblora_logits_B", rows // length, rank),
    )
    factors = ("vblora_logits_A", "vblora_logits_B")
    subject.only(*(f"{one}_topk_{what}" for one in factors for what in ("indices", "weights")) if kept else factors)
    return {"weight": product}


def _unilora(subject: Subject) -> Mapping[str, Effect]:
    (rows, columns), rank = subject.shape, subject.config.count("r", default=4)
    return {
        "weight": _Picked(
            vector=subject.common("unilora_theta_d", subject.config.count("theta_d_length", default=256)),
            down=(
                subject.stored("unilora_indices_A", rank, columns),
                subject.stored("unilora_scales_A", rank, columns),
            ),
            up=(subject.stored("unilora_indices_B", rows, rank), subject.stored("unilora_scales_B", rows, rank)),
        )
    }


def _unilora_features(tensors: Mapping[str, Stored]) -> tuple[int, int] | None:
    """``(out, in)`` by the places' shapes."""
    up, down = tensors.get("unilora_indices_B"), tensors.get("unilora_indices_A")
    if up is None or down is None or not up.info.shape or not down.info.shape:
        return None
    return up.info.shape[0], down.info.shape[-1]


VBLORA = Method(
    leaves=frozenset(
        {
            "vblora_logits_A",
            "vblora_logits_A_topk_indices",
            "vblora_logits_A_topk_weights",
            "vblora_logits_B",
            "vblora_logits_B_topk_indices",
            "vblora_logits_B_topk_weights",
        }
    ),
    indices=frozenset({"vblora_logits_A_topk_indices", "vblora_logits_B_topk_indices"}),
    effects=_vblora,
    read=frozenset({"fan_in_fan_out", "num_vectors", "r", "save_only_topk_weights", "topk", "vector_length"}),
    silent=frozenset({"init_logits_std", "init_vector_bank_bound", "vblora_dropout"}),
    shared=frozenset({"vblora_vector_bank"}),
    on_embeddings=False,
    prunes=True,  # of one weight nothing but the place is kept
)

UNILORA = Method(
    leaves=frozenset({"unilora_indices_A", "unilora_indices_B", "unilora_scales_A", "unilora_scales_B"}),
    indices=frozenset({"unilora_indices_A", "unilora_indices_B"}),
    effects=_unilora,
    features=_unilora_features,
    read=frozenset({"fan_in_fan_out", "r", "theta_d_length"}),
    silent=frozenset({"init_theta_d_bound", "init_weights", "proj_seed", "unilora_dropout"}),
    needed={
        "save_indices": (
            "which numbers each module takes is not saved, and it depends on the order of the modules in the model's "
            "code and on the dtype in which PEFT loads the base"
        )
    },
    shared=frozenset({"unilora_theta_d"}),
    on_embeddings=False,
)
