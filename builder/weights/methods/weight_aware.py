"""Changes that are computed from the weight itself: DEFT with PaRa (2025), PEANuT (Zhong et al., 2024).

Both see whole columns of ``[out, in]``, so the whole weight is needed at once. They act on the base as it was before
any adapter, as in PEFT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from builder.weights.method import Method, Subject, load_float64
from builder.weights.stream import CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["ACTIVATIONS", "DEFT", "PEANUT"]

_MATRIX = 2


def _fast_gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x)))


def _tanh_gelu(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_10": lambda x: functional.gelu(x).clip(-10, 10),
    "gelu_accurate": _tanh_gelu,
    "gelu_fast": _fast_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_python": functional.gelu,
    "gelu_python_tanh": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "hardswish": functional.hardswish,
    "laplace": lambda x: 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2)))),
    "leaky_relu": functional.leaky_relu,
    "linear": lambda x: x,
    "mish": functional.mish,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "sqrtsoftplus": lambda x: functional.softplus(x).sqrt(),
    "swish": functional.silu,
    "tanh": torch.tanh,
}
"""transformers' names of functions without parameters of their own -> what they do, elementwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Injection:
    """DEFT: ``weight + left @ (scale * injected - right.T @ base)``; it takes a subspace out and puts another one in.

    Attributes:
        directions: ``P``, shape ``[out, rank]``.
        orthogonal: ``left`` and ``right`` are the orthogonal factor of ``P``; otherwise ``P`` and its positive part.
        injected: ``R``, shape ``[rank, in]``; ``None`` where nothing is put in (PaRa).
        scale: Of ``R``; no unit.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "whole"

    directions: Stored
    orthogonal: bool
    injected: Stored | None
    scale: float

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the factors.

        Raises:
            InvalidError: One of them holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        left = load_float64(self.directions, CPU)
        if self.orthogonal:
            left = right = torch.linalg.qr(left).Q  # on the CPU, so that its signs are those of PEFT everywhere
        else:
            right = functional.relu(left)
        injected = None if self.injected is None else load_float64(self.injected, device).mul_(self.scale)
        return _Injected(left=left.to(device), right=right.to(device), injected=injected)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Injected:
    left: torch.Tensor
    right: torch.Tensor
    injected: torch.Tensor | None

    def apply(self, weight: torch.Tensor, base: torch.Tensor, _at: Block, _scale: float) -> None:
        removed = self.right.T @ base
        weight.addmm_(self.left, -removed if self.injected is None else self.injected - removed)


@dataclass(frozen=True, kw_only=True, slots=True)
class _WeightNetwork:
    """PEANuT: adds what a small network makes of the columns of the base.

    It is ``scale * up @ h``, ``h`` from ``f(down @ base)`` by encoders ``h -> f(E @ h)`` and then as many decoders
    ``h -> f(D @ h) + r``, ``r`` what went into the encoder of the same depth.

    Attributes:
        down: Shape ``[rank, out]``.
        up: Shape ``[out, rank]``.
        encoders: Shape ``[rank, rank]`` each.
        decoders: The same.
        activation: ``f``, a name in :data:`ACTIVATIONS`.
        scale: Of the output; no unit.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "whole"

    down: Stored
    up: Stored
    encoders: tuple[Stored, ...]
    decoders: tuple[Stored, ...]
    activation: str
    scale: float

    def load(self, device: torch.device) -> LoadedEffect:
        """Read all layers.

        Raises:
            InvalidError: One of them holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _Layers(
            down=load_float64(self.down, device),
            up=load_float64(self.up, device).mul_(self.scale),
            encoders=tuple(load_float64(one, device) for one in self.encoders),
            decoders=tuple(load_float64(one, device) for one in self.decoders),
            activation=ACTIVATIONS[self.activation],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layers:
    down: torch.Tensor
    up: torch.Tensor
    encoders: tuple[torch.Tensor, ...]
    decoders: tuple[torch.Tensor, ...]
    activation: Callable[[torch.Tensor], torch.Tensor]

    def apply(self, weight: torch.Tensor, base: torch.Tensor, _at: Block, _scale: float) -> None:
        hidden = self.activation(self.down @ base)
        entered = []
        for encoder in self.encoders:
            entered.append(hidden)
            hidden = self.activation(encoder @ hidden)
        for decoder in self.decoders:
            hidden = self.activation(decoder @ hidden) + entered.pop()
        weight.addmm_(self.up, hidden)


def _deft(subject: Subject) -> Mapping[str, Effect]:
    config, (rows, columns) = subject.config, subject.shape
    rank = min(config.count("r", default=8), rows)
    alone = config.flag("para")
    if alone:
        subject.only("deft_P")
    return {
        "weight": _Injection(
            directions=subject.stored("deft_P", rows, rank),
            orthogonal=config.choice("decomposition_method", ("qr", "relu"), default="relu") == "qr",
            injected=None if alone else subject.stored("deft_R", rank, columns),
            scale=(config.number("alpha", default=0) or rank) / rank,
        )
    }


def _deft_features(tensors: Mapping[str, Stored]) -> tuple[int, int] | None:
    """``(out, in)`` by the factors' shapes; without the second factor they do not tell."""
    up, down = tensors.get("deft_P"), tensors.get("deft_R")
    if up is None or down is None or not len(up.info.shape) == len(down.info.shape) == _MATRIX:
        return None
    return up.info.shape[0], down.info.shape[1]


def _peanut(subject: Subject) -> Mapping[str, Effect]:
    config, rows = subject.config, subject.shape[0]
    rank = config.count("r", default=32)
    depth = config.count("depth") if config.number("depth", default=0) else 0
    depth = min(depth, len(subject.tensors))  # of more layers one is missing, and named
    encoders, decoders = (
        tuple(f"peanut_{kind}.{index}.weight" for index in range(depth)) for kind in ("encoders", "decoders")
    )
    subject.only("peanut_A.weight", "peanut_B.weight", *encoders, *decoders)
    return {
        "weight": _WeightNetwork(
            down=subject.stored("peanut_A.weight", rank, rows),
            up=subject.stored("peanut_B.weight", rows, rank),
            encoders=tuple(subject.stored(leaf, rank, rank) for leaf in encoders),
            decoders=tuple(subject.stored(leaf, rank, rank) for leaf in decoders),
            activation=config.choice("act_fn", ACTIVATIONS, default="relu"),
            scale=config.number("scaling", default=1.0),
        )
    }


DEFT = Method(
    leaves=frozenset({"deft_P", "deft_R"}),
    effects=_deft,
    features=_deft_features,
    read=frozenset({"alpha", "decomposition_method", "fan_in_fan_out", "para", "r"}),
    silent=frozenset({"deft_dropout", "init_scale", "init_weights"}),
    on_embeddings=False,
)

PEANUT = Method(
    leaves=frozenset({"peanut_A.weight", "peanut_B.weight", "peanut_decoders.#.weight", "peanut_encoders.#.weight"}),
    effects=_peanut,
    read=frozenset({"act_fn", "depth", "r", "scaling"}),
    silent=frozenset({"init_weights"}),
    on_embeddings=False,
    on_conv1d=False,
)
