"""TinyLoRA: a few numbers between the fixed singular factors of a weight (2026, https://arxiv.org/abs/2602.04118)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64
from builder.weights.methods.lora import Product
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Effect, LoadedEffect, Span
    from builder.weights.peft_config import PeftConfig
    from builder.weights.stream import Stored

__all__ = ["TINYLORA"]

# How far a saved projection may be from the drawn one: it may have been rounded to 8 bits.
_RELATIVE, _ABSOLUTE = 2.0**-8, 2.0**-20
_CUBE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class _TinyCore:
    """Adds ``up @ core @ down``, the core a sum of fixed matrices, each times a number: ``sum(v[i] * P[i])``.

    Attributes:
        up: Left singular vectors times the roots of the singular values, shape ``[out, rank]``.
        down: Right ones, shape ``[rank, in]``.
        matrices: ``P``, shape ``[numbers, rank, rank]``.
        numbers: ``v``, shape ``[numbers]``.
        flipped: They are of the transposed weight, as those of an embedding are.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    up: Stored
    down: Stored
    matrices: Stored
    numbers: Stored
    flipped: bool = False

    def load(self, device: torch.device) -> LoadedEffect:
        """Read all four and make the core.

        Raises:
            InvalidError: One of them holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        core = torch.einsum("i,ijk->jk", load_float64(self.numbers, device), load_float64(self.matrices, device))
        up, down = load_float64(self.up, device) @ core, load_float64(self.down, device)
        return Product(up=down.T, down=up.T) if self.flipped else Product(up=up, down=down)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    rows, columns = reversed(subject.shape) if subject.embedding else subject.shape
    rank = min(subject.config.count("r", default=2), rows, columns)
    count = subject.config.count("u", default=64)
    return {
        "weight": _TinyCore(
            up=subject.stored("tinylora_B", rows, rank),
            down=subject.stored("tinylora_A", rank, columns),
            matrices=subject.stored("tinylora_P", count, rank, rank),
            numbers=subject.common(f"tinylora_v.{_group(subject)}", count),
            flipped=subject.embedding,
        )
    }


def _group(subject: Subject) -> int:
    """Which of the shared vectors the module uses: neighbours in the order of the model's code use the same one."""
    groups, size = _groups(subject.config, subject.count)
    used = min((subject.count - 1) // size, groups - 1) + 1
    if used != len(subject.shared):
        problem = f"the adapter has {len(subject.shared)} vectors tinylora_v where {used} are used"
        raise subject.config.refused(problem, "save weights and configuration together")
    return min(subject.index // size, groups - 1)


def _groups(config: PeftConfig, modules: int) -> tuple[int, int]:
    """How many vectors there may be, and for how many modules each is."""
    tying = config.number("weight_tying", default=0.0)
    if not 0 <= tying <= 1:
        raise config.refused(f"weight_tying = {tying!r} is not from 0 to 1", "save the adapter again")
    groups = max(1, round(modules * (1 - tying)))
    return groups, max(1, modules // groups)


def _order(config: PeftConfig, parts: Mapping[str, Mapping[str, Stored]]) -> dict[str, int]:
    """Module -> its place in the order of the model's code.

    PEFT does not save that, but it draws each module's projection from the seed plus this number. So a saved
    projection tells it, if it is like that of one number only, and no other module has the same.
    """
    if _groups(config, len(parts))[0] == 1:
        return {}
    seed = config.seed("projection_seed", default=42)
    drawn: dict[tuple[int, ...], torch.Tensor] = {}
    found: dict[int, str] = {}
    for module, tensors in parts.items():
        saved = tensors.get("tinylora_P")
        if saved is None or len(saved.info.shape) != _CUBE:
            continue  # refused by its name later
        shape = saved.info.shape
        if shape not in drawn:
            drawn[shape] = torch.stack([_draw(seed + place, shape) for place in range(len(parts))])
        near = torch.isclose(drawn[shape], saved.load().to(torch.float64), rtol=_RELATIVE, atol=_ABSOLUTE)
        places = near.flatten(1).all(1).nonzero().flatten().tolist()
        if len(places) != 1 or places[0] in found:
            raise InvalidError(
                f"tensor {saved.info.name!r} does not tell which of the vectors tinylora_v goes with it",
                where=str(saved.path),
                mend="merge it with PEFT, which knows the order of the model's modules, and import the result",
            )
        found[places[0]] = module
    return {module: place for place, module in found.items()}


def _draw(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The projection that PEFT draws, in float64: normal numbers of variance ``1 / rank``."""
    generator = torch.Generator().manual_seed(seed)
    deviation = 1 / math.sqrt(shape[-1])
    return torch.normal(0.0, deviation, shape, generator=generator, dtype=torch.float32).to(torch.float64)


TINYLORA = Method(
    leaves=frozenset({"tinylora_A", "tinylora_B", "tinylora_P"}),
    effects=_effects,
    read=frozenset({"fan_in_fan_out", "projection_seed", "r", "u", "weight_tying"}),
    silent=frozenset({"init_v_bound", "init_weights", "tinylora_dropout"}),
    needed={
        "save_projection": (
            "its projections are not saved, and which one a module has depends on the order of the modules in the "
            "model's code"
        )
    },
    shared=frozenset({"tinylora_v"}),
    order=_order,
)
