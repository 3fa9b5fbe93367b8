"""LoRA: ``W + scale * B @ A`` (Hu et al., 2021), rank-stabilised (Kalajdzievski, 2023), and DoRA (Liu et al., 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.peft_config import PeftConfig
    from builder.weights.stream import Stored

__all__ = ["LORA", "LowRank", "WeightDecomposed", "lora_scale"]

# Starts that leave the base as it was; all others move a part of the base into the adapter.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRank:
    """Adds ``scale * up @ down``.

    Attributes:
        down: Factor A, shape ``[rank, in]``.
        up: Factor B, shape ``[out, rank]``.
        scale: Of the product; no unit.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    down: Stored
    up: Stored
    scale: float

    def load(self, device: torch.device) -> LoadedEffect:
        """Read both factors.

        Raises:
            InvalidError: A factor holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        up = load_float64(self.up, device).mul_(self.scale)
        return _Product(up=up, down=load_float64(self.down, device))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Product:
    up: torch.Tensor
    down: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        weight.addmm_(self.up[at.rows], self.down[:, at.columns], alpha=scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightDecomposed:
    """DoRA: ``magnitude / norm(base + product) * (weight + product)``, the norm that of each row of ``[out, in]``.

    Attributes:
        product: What plain LoRA would add.
        magnitude: Norm that each row shall have, shape ``[out]`` or ``[1, out]``.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "row"

    product: LowRank
    magnitude: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Read factors and magnitudes.

        Raises:
            InvalidError: One of them holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _Decomposed(
            product=self.product.load(device), magnitude=load_float64(self.magnitude, device).reshape(-1)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decomposed:
    product: LoadedEffect
    magnitude: torch.Tensor

    def apply(self, weight: torch.Tensor, base: torch.Tensor, at: Block, _scale: float) -> None:
        # PEFT takes the norm of the base with this adapter alone, whatever was merged before.
        directed = base.clone()
        self.product.apply(directed, directed, at, 1.0)
        factor = self.magnitude[at.rows] / torch.linalg.vector_norm(directed, dim=1)
        self.product.apply(weight, weight, at, 1.0)
        weight.mul_(factor[:, None])


def lora_scale(config: PeftConfig, module: str, rank: int) -> float:
    """Factor of a module's product: alpha / rank, or alpha / sqrt(rank) when it is rank-stabilised; no unit.

    Raises:
        InvalidError: Alpha is no number, or two patterns disagree.
    """
    alpha = config.number("lora_alpha", module, patterns="alpha_pattern", default=8)
    return alpha / math.sqrt(rank) if config.flag("use_rslora") else alpha / rank


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, module = subject.config, subject.module
    _check_start(config)
    rank = config.count("r", module, patterns="rank_pattern", default=8)
    rows, columns = subject.shape
    kind = "lora_embedding_{}" if "lora_embedding_A" in subject.tensors else "lora_{}.weight"
    if subject.embedding != (kind == "lora_embedding_{}"):
        leaf = min(subject.tensors)
        raise subject.refused(leaf, "is of another form than its module", "save the adapter again")
    product = LowRank(
        down=subject.stored(kind.format("A"), rank, columns),
        up=subject.stored(kind.format("B"), rows, rank),
        scale=lora_scale(config, module, rank),
    )
    effect: Effect = product
    if config.flag("use_dora"):
        magnitude = subject.stored("lora_magnitude_vector")
        effect = WeightDecomposed(product=product, magnitude=magnitude)
    return {"weight": effect}


def _check_start(config: PeftConfig) -> None:
    start = config.values.get("init_lora_weights", True)
    if not any(start is plain or (isinstance(start, str) and start == plain) for plain in _PLAIN_STARTS):
        raise config.refused(
            f"init_lora_weights = {start!r} cannot be folded: it changed its base when training began",
            "save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA adapter",
        )


def _features(tensors: Mapping[str, Stored]) -> tuple[int, int] | None:
    """``(out, in)`` by the factors' shapes."""
    up = tensors.get("lora_B.weight") or tensors.get("lora_embedding_B")
    down = tensors.get("lora_A.weight") or tensors.get("lora_embedding_A")
    matrix = 2
    if up is None or down is None or len(up.info.shape) != matrix or len(down.info.shape) != matrix:
        return None
    return up.info.shape[0], down.info.shape[1]


LORA = Method(
    leaves=frozenset(
        {"lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"}
    ),
    effects=_effects,
    features=_features,
    read=frozenset(
        {
            "alpha_pattern",
            "fan_in_fan_out",
            "init_lora_weights",
            "lora_alpha",
            "r",
            "rank_pattern",
            "use_dora",
            "use_rslora",
        }
    ),
    silent=frozenset(
        {
            "corda_config",
            "ensure_weight_tying",
            "eva_config",
            "loftq_config",
            "lora_dropout",
            "lora_ga_config",
            "megatron_config",
            "megatron_core",
            "qalora_group_size",
            "velora_config",
        }
    ),
    reasons={
        "alora_invocation_tokens": "it acts on some tokens only, so no single weight holds it",
        "arrow_config": "it chooses among adapters at run time, so no single weight holds it",
        "kasa_config": "its base was cut down before training",
        "layer_replication": "it needs a model with other layers",
        "lora_bias": "its factors have biases",
        "monteclora_config": "it draws its factors at random",
        "target_parameters": "it changes stacked expert weights",
        "trainable_token_indices": "it replaces rows of the embedding",
        "use_bdlora": "its factors are block-diagonal",
        "use_qalora": "it pools its inputs by groups",
    },
)
