"""RoAd: a layer's outputs turned and scaled two by two (Liao and Monz, 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["ROAD"]

# How many angles, and as many scales, there are for two outputs.
_ANGLES = {"road_1": 1, "road_2": 2, "road_4": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class _PairRotation:
    """Turns pairs of rows: ``x -> a x cos(t) - a y sin(t)``, ``y -> a' y cos(t') + a' x sin(t')``.

    A pair is one row of the first half of a group and the row of the same place in the second half. The bias, one
    number for each output, is turned as the weight's rows are.

    Attributes:
        angles: ``t``, in radians, shape ``[out / 2 * angles of a pair]``.
        scales: ``a``, of the same shape; no unit.
        variant: ``road_1``: both rows have one angle; ``road_2``: each has its own; ``road_4``: sine and cosine, too.
        group: Rows of a group.
        bias: It is the bias that is turned, a single row of ``out`` numbers.
    """

    additive: ClassVar[bool] = False

    angles: Stored
    scales: Stored
    variant: str
    group: int
    bias: bool

    @property
    def span(self) -> Span:
        """Whole groups of outputs."""
        return "row" if self.bias else self.group

    def load(self, device: torch.device) -> LoadedEffect:
        """Read angles and scales.

        Raises:
            InvalidError: One of them holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        angles, scales = load_float64(self.angles, device), load_float64(self.scales, device)
        along, across = scales * angles.cos(), scales * angles.sin()
        if self.variant == "road_1":
            along, across = (part.view(-1, 1, self.group // 2).expand(-1, 2, -1) for part in (along, across))
        elif self.variant == "road_4":
            along, across = along.view(-1, 2, self.group)[:, 0], across.view(-1, 2, self.group)[:, 1]
        return _Turned(along=along.reshape(-1, 1), across=across.reshape(-1, 1), group=self.group, bias=self.bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Turned:
    """How much of itself and how much of its partner a row becomes; both of shape ``[out, 1]``."""

    along: torch.Tensor
    across: torch.Tensor
    group: int
    bias: bool

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, _scale: float) -> None:
        seen, rows = (weight.T, at.columns) if self.bias else (weight, at.rows)
        halves = seen.reshape(-1, 2, self.group // 2, seen.shape[1])
        partners = torch.stack((-halves[:, 1], halves[:, 0]), dim=1).reshape(seen.shape)
        seen.mul_(self.along[rows]).add_(partners.mul_(self.across[rows]))


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, outputs = subject.config, subject.shape[0]
    variant = config.choice("variant", _ANGLES, default="road_1")
    group = config.count("group_size", default=64)
    if group % 2 or outputs % group:
        problem = f"group_size {group} does not divide the {outputs} outputs of {subject.module} into pairs"
        raise config.refused(problem, "fold it into the model that it was trained on")
    size = outputs * _ANGLES[variant] // 2
    angles, scales = subject.stored("road_theta", size), subject.stored("road_alpha", size)
    parameters = {"weight": False} if subject.bias is None else {"weight": False, "bias": True}
    return {
        name: _PairRotation(angles=angles, scales=scales, variant=variant, group=group, bias=bias)
        for name, bias in parameters.items()
    }


ROAD = Method(
    leaves=frozenset({"road_theta", "road_alpha"}),
    effects=_effects,
    read=frozenset({"group_size", "variant"}),
    silent=frozenset({"init_weights"}),
    on_embeddings=False,
    on_conv1d=False,
)
