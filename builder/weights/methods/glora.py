"""GLoRA: ``W + W * A + B`` and ``b + b * D + E + W @ C``, element by element (Chavan et al., 2023, arXiv:2306.07967).

Each of A to E is a product of two factors, one number for each row, one number, or nothing. ``W`` and ``b`` are the
base's own, whatever other adapters did to them before, as in PEFT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import torch

from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.method import Method, Subject, load_float64
from builder.weights.stream import Scratch, Stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span

__all__ = ["GLORA"]

_PATHS = {"A": "config_A_B", "B": "config_A_B", "C": "config_C", "D": "config_D_E", "E": "config_D_E"}
_DEFAULTS = {"config_A_B": "lora", "config_C": "lora", "config_D_E": "constant"}
_CHOICES = {
    "config_A_B": ("lora", "vector", "constant", "none"),
    "config_C": ("lora", "vector", "none"),
    "config_D_E": ("vector", "constant", "none"),
}

_Path: TypeAlias = tuple[Stored, ...]
"""Two factors ``[rows, rank]`` and ``[rank, columns]``; or one tensor: of one element, or one for each row."""

_LoadedPath: TypeAlias = tuple[torch.Tensor, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _GeneralWeight:
    """Adds ``base * factor + term``.

    Attributes:
        factor: A.
        term: B.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "element"

    factor: _Path
    term: _Path

    def load(self, device: torch.device) -> LoadedEffect:
        """Read A and B.

        Raises:
            InvalidError: One of them holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _LoadedWeight(factor=_load(self.factor, device), term=_load(self.term, device))


@dataclass(frozen=True, kw_only=True, slots=True)
class _LoadedWeight:
    factor: _LoadedPath
    term: _LoadedPath

    def apply(self, weight: torch.Tensor, base: torch.Tensor, at: Block, _scale: float) -> None:
        weight.add_(base * _part(self.factor, at) + _part(self.term, at))  # base may be the same memory as weight


@dataclass(frozen=True, kw_only=True, slots=True)
class _GeneralBias:
    """Adds ``base * factor + term + weight @ coupling`` to a bias, which is one row.

    Attributes:
        factor: D, one element or ``[out]``; empty for nothing.
        term: E, the same.
        coupling: C, ``[in, 1]``, or its two factors; empty for nothing.
        weight: The module's weight as the base has it, ``[out, in]``.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "row"

    factor: _Path
    term: _Path
    coupling: _Path
    weight: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Read C, D and E, and the weight block by block.

        Raises:
            InvalidError: One of them holds NaN or an infinity.
            OSError: A file cannot be read.
        """
        factor, term = _load(self.factor, device), _load(self.term, device)
        nothing = torch.zeros(1, dtype=torch.float64, device=device)
        total = term[0] if term else nothing
        if self.coupling:
            coupling = _load(self.coupling, device)
            total = total + self._coupled(coupling[0] if len(coupling) == 1 else coupling[0] @ coupling[1])
        return _LoadedBias(factor=factor[0] if factor else nothing, term=total)

    def _coupled(self, coupling: torch.Tensor) -> torch.Tensor:
        """``weight @ coupling``, shape ``[out]``."""
        rows, columns = self.weight.info.shape
        row_bytes = self.weight.info.size_bytes // rows
        scratch, parts = Scratch(), []
        step = max(1, scratch.block_bytes // row_bytes)
        with self.weight.path.open("rb", buffering=0) as stream:
            for start in range(0, rows, step):
                count = min(step, rows - start)
                self.weight.read(stream.fileno(), start * row_bytes, scratch.bytes("weight", count * row_bytes))
                block = scratch.host("weight", self.weight.info.dtype, count * columns).view(count, columns)
                parts.append((block.to(coupling.device, torch.float64) @ coupling).view(-1))
        return torch.cat(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class _LoadedBias:
    factor: torch.Tensor
    term: torch.Tensor

    def apply(self, weight: torch.Tensor, base: torch.Tensor, _at: Block, _scale: float) -> None:
        weight.add_(base * self.factor + self.term)


def _load(path: _Path, device: torch.device) -> _LoadedPath:
    return tuple(load_float64(stored, device) for stored in path)


def _part(path: _LoadedPath, at: Block) -> torch.Tensor:
    """What a path gives for a block of a weight; maybe less, to be broadcast."""
    if len(path) > 1:
        return path[0][at.rows] @ path[1][:, at.columns]
    return path[0] if path[0].numel() == 1 else path[0][at.rows]


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, (rows, columns) = subject.config, subject.shape
    kinds = {key: config.choice(key, choices, default=_DEFAULTS[key]) for key, choices in _CHOICES.items()}
    if subject.bias is None:
        kinds |= {"config_C": "none", "config_D_E": "none"}
    shapes = {"A": (rows, columns), "B": (rows, columns), "C": (columns, 1), "D": (rows,), "E": (rows,)}
    paths = {name: _path(subject, name, kinds[key], shapes[name]) for name, key in _PATHS.items()}
    subject.only(*(leaf for name, key in _PATHS.items() for leaf in _leaves(name, kinds[key])))
    effects: dict[str, Effect] = {}
    if paths["A"]:
        effects["weight"] = _GeneralWeight(factor=paths["A"], term=paths["B"])
    if paths["C"] or paths["D"]:
        if config.values.get("bias", "none") != "none":
            problem = f"bias = {config.values['bias']!r} cannot be folded: it trains biases that GLORA changes, too"
            raise config.refused(problem, "train it with bias none")
        effects["bias"] = _GeneralBias(factor=paths["D"], term=paths["E"], coupling=paths["C"], weight=subject.weight)
    return effects


def _leaves(name: str, kind: str) -> tuple[str, ...]:
    ends = {"lora": ("Xd", "Xu"), "none": ("zeros",)}.get(kind, ("X",))
    return tuple(f"glora_{name}.{end}" for end in ends)


def _path(subject: Subject, name: str, kind: str, shape: tuple[int, ...]) -> _Path:
    """The tensors of A, B, C, D or E; none where it is zero."""
    leaves = _leaves(name, kind)
    if kind == "lora":
        rank = subject.config.count("r", default=8)
        return subject.stored(leaves[0], shape[0], rank), subject.stored(leaves[1], rank, shape[1])
    if kind == "none":
        _check_zeros(subject, leaves[0], shape)
        return ()
    vector = shape if len(shape) == 1 else (shape[0], 1)
    return (subject.stored(leaves[0], *(vector if kind == "vector" else (1,))),)


def _check_zeros(subject: Subject, leaf: str, shape: tuple[int, ...]) -> None:
    """PEFT keeps zeros of the full shape, and would add whatever is in them."""
    stored = subject.stored(leaf, *shape)
    scratch, dtype = Scratch(), TORCH_DTYPES[stored.info.dtype]
    if any(bool(torch.frombuffer(block, dtype=dtype).count_nonzero()) for block in stored.blocks(scratch)):
        raise subject.refused(leaf, "is not zero, though the configuration leaves it out", "save the adapter again")


def _features(tensors: Mapping[str, Stored]) -> tuple[int, int] | None:
    """``(out, in)`` by the factors of A."""
    up, down, matrix = tensors.get("glora_A.Xd"), tensors.get("glora_A.Xu"), 2
    if up is None or down is None or len(up.info.shape) != matrix or len(down.info.shape) != matrix:
        return None
    return up.info.shape[0], down.info.shape[1]


GLORA = Method(
    leaves=frozenset(f"glora_{name}.{end}" for name in _PATHS for end in ("X", "Xd", "Xu", "zeros")),
    effects=_effects,
    features=_features,
    on_embeddings=False,
    on_conv1d=False,
    read=frozenset({*_CHOICES, "r"}),
    silent=frozenset({"init_weights"}),
)
