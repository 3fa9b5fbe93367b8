"""LoRA: ``W + scale * B @ A`` (Hu et al., 2021), rank-stabilised (Kalajdzievski, 2023), and DoRA (Liu et al., 2024).

Also what else PEFT merges under this name: biases of B, block-diagonal factors (BD-LoRA), and factors on parameters
such as stacked experts. Monte Carlo LoRA and VeLoRA are plain LoRA once they are trained; what they save beside their
factors was for training only. PEFT's MiCA is LoRA with another start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64
from builder.weights.methods.block_diagonal import BlockDiagonal, blocks_of
from builder.weights.methods.product import LowRank, Product
from builder.weights.methods.stack import FactorStack
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.peft_config import PeftConfig
    from builder.weights.stream import Stored

__all__ = ["LORA", "LowRank", "Product", "Shift", "WeightDecomposed"]

# Starts that leave the base as it was, and those that move a part of it into the adapter.
_PLAIN_STARTS = frozenset({"eva", "gaussian", "mica", "orthogonal"})
_MOVING_STARTS = ("corda", "lora_ga", "olora", "pissa")

_MAGNITUDE = "lora_magnitude_vector"
_BIAS = "lora_B.bias"

# What training needed and no merge looks at.
_IDLE = frozenset(
    {
        "lora_monteclora_sampler.expert_weights",
        "lora_monteclora_sampler.expert_weights_prior",
        "lora_monteclora_sampler.gaussian_var_prior",
        "lora_monteclora_sampler.std_prior",
        "lora_velora_embed",
    }
)

_VARIANTS = ("monteclora_config", "use_bdlora", "use_dora", "velora_config")

_AGAIN = "save the adapter again"


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
            product=self.product.load(device),
            magnitude=load_float64(self.magnitude, device).reshape(-1),
            stored=self.magnitude,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decomposed:
    product: LoadedEffect
    magnitude: torch.Tensor
    stored: Stored

    def apply(self, weight: torch.Tensor, base: torch.Tensor, at: Block, _scale: float) -> None:
        # PEFT takes the norm of the base with this adapter alone, whatever was merged before.
        directed = base.clone()
        self.product.apply(directed, directed, at, 1.0)
        lengths = torch.linalg.vector_norm(directed, dim=1)
        if not bool(lengths.all()):
            row = at.rows.start + int((lengths == 0).nonzero()[0])
            raise InvalidError(
                f"tensor {self.stored.info.name!r} gives row {row} a length, and weight and factors make that row "
                "zero: DoRA has no direction for it",
                where=str(self.stored.path),
                mend="leave that module out of the adapter's target_modules, or train it without `use_dora`",
            )
        factor = self.magnitude[at.rows] / lengths
        self.product.apply(weight, weight, at, 1.0)
        weight.mul_(factor[:, None])


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """Adds ``scale * bias`` to a bias.

    Attributes:
        bias: Shape ``[out]``.
        scale: No unit.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    bias: Stored
    scale: float

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the bias.

        Raises:
            InvalidError: It holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _Shifted(values=load_float64(self.bias, device).mul_(self.scale))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shifted:
    values: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        weight.add_(self.values[at.columns], alpha=scale)


def _lora_scale(config: PeftConfig, module: str, rank: int) -> float:
    """Factor of a module's product: alpha / rank, or alpha / sqrt(rank) when it is rank-stabilised; no unit.

    Raises:
        InvalidError: Alpha is no number, or two patterns disagree.
    """
    alpha = config.number("lora_alpha", module, patterns="alpha_pattern", default=8)
    return alpha / math.sqrt(rank) if config.flag("use_rslora") else alpha / rank


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, module = subject.config, subject.module
    _check_start(config)
    _check_variants(config)
    rank = config.count("r", module, patterns="rank_pattern", default=8)
    rows, columns = subject.shape
    if subject.embedding != ("lora_embedding_A" in subject.tensors):
        raise subject.refused(min(subject.tensors), "is of another form than its module", _AGAIN)
    form = "lora_embedding_{}" if subject.embedding else "lora_{}.weight"
    down, up = form.format("A"), form.format("B")
    blocks = blocks_of(config, module, rank, subject.shape)
    _check_pooled(subject, down, columns)
    product = LowRank(
        down=subject.stored(down, rank, columns // blocks[0]),
        up=subject.stored(up, rows, rank // blocks[1]),
        scale=_lora_scale(config, module, rank),
    )
    effects: dict[str, Effect] = {"weight": product}
    if blocks != (1, 1):
        effects["weight"] = BlockDiagonal(product=product, down_blocks=blocks[0], up_blocks=blocks[1])
    if dora := config.flag("use_dora"):
        effects["weight"] = WeightDecomposed(product=product, magnitude=subject.stored(_MAGNITUDE, rows))
    if biased := config.flag("lora_bias"):
        effects["bias"] = Shift(bias=subject.stored(_BIAS, rows), scale=product.scale)
    subject.only(down, up, *_IDLE, *([_MAGNITUDE] if dora else []), *([_BIAS] if biased else []))
    return effects


def _stack(subject: Subject, experts: int) -> FactorStack:
    config, (rows, columns) = subject.config, subject.shape
    _check_start(config)
    for key in ("lora_bias", *_VARIANTS):
        if config.values.get(key):
            what = f"{key} = {config.values[key]!r} cannot be folded: PEFT has none for parameters"
            raise config.refused(what, "train a plain LORA adapter")
    rank = config.count("r", subject.module, patterns="rank_pattern", default=8)
    subject.only("lora_A.weight", "lora_B.weight", *_IDLE)
    return FactorStack(
        down=subject.stored("lora_A.weight", experts * rank, columns),
        up=subject.stored("lora_B.weight", rows, rank * experts),
        scale=_lora_scale(config, subject.module, rank),
        experts=experts,
    )


def _check_pooled(subject: Subject, down: str, columns: int) -> None:
    """QA-LoRA pools its inputs on GPTQ layers only; on all others PEFT ignores the flag."""
    found = subject.tensors.get(down)
    if subject.config.flag("use_qalora") and found is not None and found.info.shape[-1:] != (columns,):
        what = "use_qalora = True cannot be folded: it pools its inputs by groups, and PEFT cannot merge that"
        raise subject.config.refused(what, "train a plain LORA adapter")


def _check_variants(config: PeftConfig) -> None:
    """PEFT has each of them by itself only, and no biases with DoRA."""
    both = [key for key in _VARIANTS if config.values.get(key)]
    if config.values.get("use_dora") and config.values.get("lora_bias"):
        both.append("lora_bias")
    if len(both) > 1:
        raise config.refused(f"{both[0]} together with {both[1]} is nothing that PEFT has", _AGAIN)


def _check_start(config: PeftConfig) -> None:
    start = config.values.get("init_lora_weights", True)
    word = start.lower() if isinstance(start, str) else ""
    if start is None or isinstance(start, bool) or word in _PLAIN_STARTS:
        return
    said = f"init_lora_weights = {start!r} cannot be folded:"
    if word == "loftq":
        what = f"{said} its base was rounded to few bits when training began, and the adapter makes up for that"
        raise config.refused(what, "merge it with PEFT into the base that it was saved with, and import the result")
    if not word.startswith(_MOVING_STARTS):
        raise config.refused(f"{said} this tool does not know what it means", "train a plain LORA adapter")
    raise config.refused(
        f"{said} it changed its base when training began",
        "save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA adapter",
    )


def _alike(embedding: Subject, head: Subject) -> bool:
    """Whether two modules get the same change, one of them as ``[in, out]``."""
    ours, theirs = _effects(embedding)["weight"], _effects(head)["weight"]
    if not isinstance(ours, LowRank) or not isinstance(theirs, LowRank) or ours.scale != theirs.scale:
        return False
    down, up = (stored.load().double() for stored in (ours.down, ours.up))
    return torch.equal(down.T, theirs.up.load().double()) and torch.equal(up.T, theirs.down.load().double())


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
        {"lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B", _MAGNITUDE, _BIAS, *_IDLE}
    ),
    effects=_effects,
    stack=_stack,
    alike=_alike,
    features=_features,
    reshaped=frozenset({"use_bdlora", "use_qalora"}),
    read=frozenset(
        {
            "alpha_pattern",
            "ensure_weight_tying",
            "fan_in_fan_out",
            "init_lora_weights",
            "lora_alpha",
            "lora_bias",
            "r",
            "rank_pattern",
            "target_parameters",
            "use_bdlora",
            "use_dora",
            "use_qalora",
            "use_rslora",
        }
    ),
    silent=frozenset(
        {
            "corda_config",
            "eva_config",
            "loftq_config",
            "lora_dropout",
            "lora_ga_config",
            "megatron_config",
            "megatron_core",
            "monteclora_config",
            "qalora_group_size",
            "velora_config",
        }
    ),
    reasons={
        "alora_invocation_tokens": "it acts on some tokens only, so no single weight holds it",
        "arrow_config": "it chooses among adapters at run time, so no single weight holds it",
        "kasa_config": "its base was cut down by a float32 SVD before training, which comes out otherwise elsewhere",
        "layer_replication": "its base has some layers twice, and the adapter treats each copy in its own way",
    },
)
