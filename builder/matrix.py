"""What goes with what in a training: kind, adapter, how its base is held, over how many processes, by which engine.

A cell of the matrix is one choice of all five. It works where each pair of them does, so what is kept is pairs that do
not, each with its reason. The manifest's check, ``varietal matrix`` and the tests all read it here. Pure; no torch.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Final, NamedTuple, cast, get_args

from builder.adapter_settings import ADAPTERS, LoraSettings
from builder.kinds import KINDS
from builder.ranks import can_share
from builder.train_stages import PretrainStage, TrainStage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.adapter_types.table import Base
    from registry.canonical import JSON

__all__ = ["AXES", "NO_ADAPTER", "Cell", "Pair", "cells", "pairs", "refusals"]

NO_ADAPTER: Final = "none"
"""Stands for a training of the model's own weights."""

_STAGES: Final[tuple[type, ...]] = (PretrainStage, *get_args(TrainStage))

AXES: Final[Mapping[str, tuple[str, ...]]] = {
    "kind": tuple(str(stage.__dataclass_fields__["kind"].default) for stage in _STAGES),  # type: ignore[attr-defined]
    "adapter": (NO_ADAPTER, *ADAPTERS),
    "base": ("stored", "int8", "nf4"),
    "processes": ("one", "several", "fsdp2"),
    "engine": ("trl",),
}
"""What each choice may be. ``several`` processes each hold the whole model; with ``fsdp2`` each holds its part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One choice of everything."""

    kind: str
    adapter: str = NO_ADAPTER
    base: str = "stored"
    processes: str = "one"
    engine: str = "trl"


class Pair(NamedTuple):
    """Two choices that go together, or do not.

    Attributes:
        axes: The two axes.
        values: What is chosen on them.
        reason: Why they do not go together; empty where they do.
    """

    axes: tuple[str, str]
    values: tuple[str, str]
    reason: str

    def to_json(self) -> dict[str, JSON]:
        """As ``varietal matrix --json`` has it."""
        return {"axes": [*self.axes], "values": [*self.values], "works": not self.reason, "reason": self.reason}


def pairs() -> Iterator[Pair]:
    """Every pair of choices on two axes, in the order of the axes."""
    for one, other in combinations(AXES, 2):
        for first in AXES[one]:
            for second in AXES[other]:
                yield Pair((one, other), (first, second), _reason(one, other, first, second))


def refusals(cell: Cell) -> Iterator[Pair]:
    """The pairs of a cell that do not go together; none where the cell works."""
    for one, other in combinations(AXES, 2):
        values = getattr(cell, one), getattr(cell, other)
        if reason := _reason(one, other, *values):
            yield Pair((one, other), values, reason)


def cells(*, works: bool = True) -> Iterator[Cell]:
    """Every cell that works, or does not."""
    for kind in AXES["kind"]:
        for adapter in AXES["adapter"]:
            for base in AXES["base"]:
                for processes in AXES["processes"]:
                    cell = Cell(kind=kind, adapter=adapter, base=base, processes=processes)
                    if works != any(True for _ in refusals(cell)):
                        yield cell


@cache
def _reason(one: str, other: str, first: str, second: str) -> str:
    match one, other:
        case "kind", "adapter":
            return _kind_adapter(first, second)
        case "adapter", "base":
            return _adapter_base(first, second)
        case "kind", "processes":
            return _kind_processes(first, second)
        case "adapter", "processes":
            return _adapter_processes(first, second)
        case "base", "processes":
            return _base_processes(cast("Base", first), second)
        case _:
            return ""


_COUNTS_PLACES: Final = frozenset({"orpo", "cpo"})


def _kind_adapter(kind: str, adapter: str) -> str:
    if kind == "reward" and adapter == "trainable_tokens":
        return "PEFT saves no head beside it, and a score needs one"
    if kind == "distill" and adapter in {"prompt_tuning", "prefix_tuning"}:
        return "TRL takes what the network gives without PEFT, which puts the learnt vectors there"
    if kind in _COUNTS_PLACES and adapter == "prompt_tuning":
        return "TRL holds the places of answers against logits that a learnt prompt has shifted"
    return ""


def _adapter_base(adapter: str, base: str) -> str:
    if base == "stored":
        return ""
    if adapter == NO_ADAPTER:
        return "weights in few bits are too coarse to be trained themselves"
    if not ADAPTERS[adapter].QUANTISED:
        return "PEFT has no layer of this type over weights in few bits"
    return ""


def _kind_processes(kind: str, processes: str) -> str:
    if processes != "one" and not KINDS[kind].ranks:
        return "it runs in one process"
    if processes == "fsdp2" and not KINDS[kind].sharded:
        return "it needs the whole model in each process"
    return ""


@dataclass(frozen=True, slots=True)
class _Settings:
    adapter: object


def _adapter_processes(adapter: str, processes: str) -> str:
    if adapter == NO_ADAPTER or processes != "fsdp2":
        return ""
    table = ADAPTERS[adapter]
    settings = table(**{name: () for name, one in table.__dataclass_fields__.items() if _is_needed(one)})
    if not can_share(_Settings(settings), goes_on=False):
        return "only plain LoRA is tried over parts of weights"
    return ""


def _base_processes(base: Base, processes: str) -> str:
    if processes == "fsdp2" and not can_share(_Settings(LoraSettings(base=base)), goes_on=False):
        return "bitsandbytes holds whole weights, not parts of them"
    return ""


def _is_needed(one: Field[object]) -> bool:
    """Whether a field has no default; those that have none are lists."""
    return one.default is MISSING and one.default_factory is MISSING
