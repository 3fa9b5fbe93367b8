"""VeRA: ``W + diag(b) @ B @ diag(d) @ A``, A and B random and shared by all modules (Kopiczko et al., 2024).

PVeRA (arXiv:2512.07703) learns a distribution instead of ``d``; what folds, in PEFT too, is its mean: the first half.

Where A and B were not saved, PEFT draws them again from a seed when it loads the adapter, and rounds them to the dtype
that it loads the base in. Whether a base of 16 bits was loaded as such, the adapter does not tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64
from builder.weights.methods.lora import Product

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["PVERA", "VERA", "Drawn"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Saved:
    """Projections in the adapter's file.

    Attributes:
        down: A, shape ``[rank or more, largest in]``.
        up: B, shape ``[largest out, rank]``.
    """

    down: Stored
    up: Stored

    def load(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Both in float64.

        Raises:
            InvalidError: One of them holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        return load_float64(self.down, device), load_float64(self.up, device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Projections drawn again as PEFT draws them: uniform, on the CPU, A before B.

    Attributes:
        seed: Of the generator.
        down: Shape of A.
        up: Shape of B.
    """

    seed: int
    down: tuple[int, int]
    up: tuple[int, int]

    def load(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Both in float64."""
        down, up = _draw(self.seed, self.down, self.up)
        return down.to(device, torch.float64), up.to(device, torch.float64)


@lru_cache(maxsize=1)  # all modules share them
def _draw(seed: int, *shapes: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for shape in shapes:
        bound = math.sqrt(3.0) * (math.sqrt(2.0) / math.sqrt(shape[1]))  # He et al., 2015, with a gain of sqrt(2)
        drawn.append(torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator))
    return tuple(drawn)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ScaledProjections:
    """Adds ``diag(outer) @ B @ diag(inner) @ A``, of A and B what the module's shape needs.

    Attributes:
        projections: A and B.
        inner: Vector d, shape ``[rank]`` or longer; the rest is not used.
        outer: Vector b, shape ``[out]``.
        rank: How many rows of A, columns of B and elements of d.
        columns: ``in``.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    projections: _Saved | Drawn
    inner: Stored
    outer: Stored
    rank: int
    columns: int

    def load(self, device: torch.device) -> LoadedEffect:
        """Read or draw what is multiplied.

        Raises:
            InvalidError: A tensor holds NaN or an infinity.
            OSError: A file cannot be read.
        """
        down, up = self.projections.load(device)
        inner, outer = load_float64(self.inner, device)[: self.rank, None], load_float64(self.outer, device)[:, None]
        return Product(up=outer * up[: len(outer)], down=inner * down[: self.rank, : self.columns])


def _effects(subject: Subject, *, prefix: str, parts: int) -> Mapping[str, Effect]:
    """Effects of VeRA, or with two parts, mean and variance, of PVeRA."""
    rank, (rows, columns) = subject.config.count("r", default=256), subject.shape
    effect = _ScaledProjections(
        projections=_projections(subject, prefix, parts * rank, rank),
        inner=subject.stored(f"{prefix}_lambda_d", parts * rank),
        outer=subject.stored(f"{prefix}_lambda_b", rows),
        rank=rank,
        columns=columns,
    )
    return {"weight": effect}


def _projections(subject: Subject, prefix: str, height: int, rank: int) -> _Saved | Drawn:
    config, (rows, columns) = subject.config, subject.largest
    names = (f"{prefix}_A", f"{prefix}_B")
    if config.flag("save_projection", default=True):
        return _Saved(down=subject.common(names[0], height, columns), up=subject.common(names[1], rows, rank))
    if there := sorted(subject.shared.keys() & set(names)):
        problem = f"the adapter has {there[0]}, which save_projection = False says it has not"
        raise config.refused(problem, "save weights and configuration together")
    if subject.weight.info.dtype not in {"F32", "F64"}:
        problem = "PEFT draws them again, and rounds them to the dtype in which the base is loaded"
        mend = "train it with save_projection; or, if the base was loaded in float32 then, cast the model to that first"
        raise config.refused(f"{' and '.join(names)} were not saved: {problem}", mend)
    return Drawn(seed=config.seed("projection_prng_key", default=0), down=(height, columns), up=(rows, rank))


def _method(prefix: str, *, parts: int, silent: frozenset[str] = frozenset()) -> Method:
    return Method(
        leaves=frozenset({f"{prefix}_lambda_b", f"{prefix}_lambda_d"}),
        shared=frozenset({f"{prefix}_A", f"{prefix}_B"}),
        effects=partial(_effects, prefix=prefix, parts=parts),
        on_embeddings=False,
        read=frozenset({"fan_in_fan_out", "projection_prng_key", "r", "save_projection"}),
        silent=frozenset({"d_initial", "init_weights", f"{prefix}_dropout", *silent}),
    )


VERA = _method("vera", parts=1)
PVERA = _method("pvera", parts=2, silent=frozenset({"generator_seed", "sample_at_inference"}))
