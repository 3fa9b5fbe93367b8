"""Settings of new adapters: every key's meaning, bounds and default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from builder.shapes import Number
from builder.tables import Key
from registry.selector import Selector

__all__ = ["LoraSettings"]


def _whole_network() -> Selector:
    return Selector.parse(["attention", "mlp"])


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """A new LoRA adapter."""

    type: Annotated[Literal["lora"], Key("Type of the adapter.")] = "lora"
    rank: Annotated[int, Key("Rank of the two factors."), Number(minimum=1, maximum=4096)] = 16
    alpha: Annotated[
        float, Key("Scale: what the factors give is multiplied by alpha / rank."), Number(above=0, maximum=1e6)
    ] = 32.0
    dropout: Annotated[float, Key("Share of the adapter's inputs that training drops."), Number(minimum=0, below=1)] = (
        0.0
    )
    rslora: Annotated[bool, Key("Scale by alpha / square root of rank instead.")] = False
    targets: Annotated[Selector, Key("Weights that get the adapter; a selector.")] = field(
        default_factory=_whole_network
    )
