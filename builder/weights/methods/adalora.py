"""AdaLoRA: ``W + scale * B @ diag(E) @ A``, ranks pruned in training (Zhang et al., 2023, arXiv:2303.10512)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from builder.weights.method import Method, Subject, load_float64
from builder.weights.methods.lora import Product

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from builder.weights.effect import Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["ADALORA"]

_EPSILON = 1e-5  # PEFT adds it to the rank that it divides by
_AGAIN = "save the adapter again"


@dataclass(frozen=True, kw_only=True, slots=True)
class _SingularValues:
    """Adds ``scale * up @ diag(values) @ down``.

    Attributes:
        down: Factor A, shape ``[rank, in]``.
        values: Singular values E, shape ``[rank, 1]``.
        up: Factor B, shape ``[out, rank]``.
        scale: Of the product; no unit.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    down: Stored
    values: Stored
    up: Stored
    scale: float

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the factors.

        Raises:
            InvalidError: A factor holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        down = load_float64(self.down, device).mul_(load_float64(self.values, device))
        return Product(up=load_float64(self.up, device).mul_(self.scale), down=down)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, (rows, columns) = subject.config, subject.shape
    start = config.count("init_r", default=12)
    rank = _rank(subject, start)
    effect = _SingularValues(
        down=subject.stored("lora_A", rank, columns),
        values=subject.stored("lora_E", rank, 1),
        up=subject.stored("lora_B", rows, rank),
        # Whatever was pruned, PEFT goes on dividing by the rank that training began with.
        scale=_alpha(subject, rank, start) / (start + _EPSILON),
    )
    return {"weight": effect} if rank else {}


def _rank(subject: Subject, start: int) -> int:
    """How many ranks training has left of a module: as many as its list in ``rank_pattern`` has true values."""
    config, name = subject.config, f"{subject.module}.lora_E"
    table = config.values.get("rank_pattern") or {}
    if not isinstance(table, dict):
        raise config.refused("rank_pattern is not a table", _AGAIN)
    # Some releases of PEFT leave the adapter's name at the end of the key.
    kept = [value for key, value in table.items() if key == name or key.startswith(f"{name}.")]
    if not kept:
        return start
    mask = kept[0]
    if len(kept) > 1 or not isinstance(mask, list) or len(mask) != start or not all(type(one) is bool for one in mask):
        raise config.refused(f"rank_pattern of {name} is no list of {start} truth values", _AGAIN)
    return mask.count(True)


def _alpha(subject: Subject, rank: int, start: int) -> float:
    alpha = subject.config.number("lora_alpha", default=8)
    if alpha > 0:
        return alpha
    if rank != start:
        problem = f"lora_alpha = {alpha!r} cannot be folded: PEFT scales {subject.module}, which was pruned, "
        mend = "train it with a lora_alpha above 0"
        raise subject.config.refused(f"{problem}otherwise in training than when it is loaded", mend)
    return float(rank)


def _features(tensors: Mapping[str, Stored]) -> tuple[int, int] | None:
    """``(out, in)`` by the factors' shapes."""
    up, down, matrix = tensors.get("lora_B"), tensors.get("lora_A"), 2
    if up is None or down is None or len(up.info.shape) != matrix or len(down.info.shape) != matrix:
        return None
    return up.info.shape[0], down.info.shape[1]


ADALORA = Method(
    leaves=frozenset({"lora_A", "lora_B", "lora_E"}),
    effects=_effects,
    features=_features,
    on_embeddings=False,
    prunes=True,
    read=frozenset({"fan_in_fan_out", "init_r", "lora_alpha", "rank_pattern"}),
    silent=frozenset(
        {
            "alpha_pattern",  # PEFT looks at neither this nor r, lora_bias and use_rslora
            "beta1",
            "beta2",
            "deltaT",
            "ensure_weight_tying",
            "init_lora_weights",
            "lora_bias",
            "lora_dropout",
            "megatron_config",
            "megatron_core",
            "orth_reg_weight",
            "qalora_group_size",
            "r",
            "target_r",
            "tfinal",
            "tinit",
            "total_step",
            "use_rslora",
        }
    ),
    reasons={"layer_replication": "it needs a model with other layers"},
)
