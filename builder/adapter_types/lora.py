"""LoRA and AdaLoRA: two factors beside a weight, with all that may be said on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from builder.adapter_types.table import Dropout, OnMatrices, Peft, Shapes
from builder.clash import Clash
from builder.shapes import Number
from builder.tables import Key
from builder.weighting import Weighting

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AdaloraSettings", "LoraSettings"]

_RANK = Number(integer=True, minimum=1, maximum=4096)
_ALPHA = Number(above=0, maximum=1e6)
_COUNT = Number(minimum=1, maximum=4096)

_FIRST_RANK: Final = Weighting.of(16)
_FIRST_ALPHA: Final = Weighting.of(32)
_INITS: Mapping[str, object] = {"kaiming": True}
_CHANGING = frozenset({"pissa", "olora"})


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings(OnMatrices):
    """A new LoRA adapter."""

    QUANTISED: ClassVar[bool] = True
    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["lora"], Key("Type of the adapter."), Peft("")] = "lora"
    rank: Annotated[
        Weighting,
        Key("Rank of the two factors; one for all, or others for some; between two of a gradient the nearest."),
        _RANK,
        Peft("r", "rank_pattern"),
    ] = _FIRST_RANK
    alpha: Annotated[
        Weighting,
        Key("Scale: what the factors give is multiplied by alpha / rank."),
        _ALPHA,
        Peft("lora_alpha", "alpha_pattern"),
    ] = _FIRST_ALPHA
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("lora_dropout")] = 0.0
    rslora: Annotated[bool, Key("Scale by alpha / square root of rank instead."), Peft("use_rslora")] = False
    dora: Annotated[bool, Key("Train a length for each row of the weight, too (DoRA)."), Peft("use_dora")] = False
    init: Annotated[
        Literal["kaiming", "gaussian", "orthogonal", "pissa", "olora"],
        Key(
            "How the factors start: `pissa` and `olora` from the weight's own largest directions; their adapter is "
            "written as a plain one of twice the rank."
        ),
        Peft(""),
    ] = "kaiming"
    bias: Annotated[
        Literal["none", "all", "adapted"],
        Key("Biases that are trained, too: all, or those of adapted layers."),
        Peft(""),
    ] = "none"

    @property
    def changes_base(self) -> bool:
        """Whether the factors' start is taken out of the weights, and put back when the adapter is written."""
        return self.init in _CHANGING

    def told(self) -> Mapping[str, object]:
        """PEFT's words for the start and the biases."""
        bias = "lora_only" if self.bias == "adapted" else self.bias
        return {"init_lora_weights": _INITS.get(self.init, self.init), "bias": bias}

    def clash(self) -> Clash | None:
        """A start that needs the weights, or another rank."""
        if self.changes_base and self.base != "stored":
            return Clash(
                path=("init",),
                problem=f"{self.init} takes its start from the weights, which {self.base} rounds",
                mend="write `init: kaiming`, or `base: stored`",
            )
        if self.changes_base and self.bias != "none":
            return Clash(
                path=("bias",),
                problem=f"an adapter of {self.init} is written as a plain one, without biases",
                mend="write `bias: none`, or `init: kaiming`",
            )
        if self.init == "orthogonal" and any(number % 2 for number in self.rank.numbers):
            return Clash(path=("rank",), problem="the orthogonal start needs even ranks", mend="make them even")
        return None

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:
        """A start from the weight has no more directions than the weight."""
        if self.changes_base and self.rank.largest > min(rows, columns):
            return "rank", f"{self.init} finds {min(rows, columns)} directions at most"
        return "", ""

    def numbers(self, rows: int, columns: int) -> int:
        """Two factors; the lengths of DoRA."""
        return math.ceil(self.rank.largest) * (rows + columns) + (rows if self.dora else 0)

    def saved(self, shapes: Shapes) -> int:
        """A start that was taken out is written beside what was trained; biases are no longer than the vectors."""
        biases = sum(shape[0] for shape in shapes if len(shape) == 1) if self.bias != "none" else 0
        return self.trained(shapes) * (2 if self.changes_base else 1) + biases


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaloraSettings(OnMatrices):
    """A new AdaLoRA adapter: singular vectors and values, of which the least important are dropped on the way."""

    QUANTISED: ClassVar[bool] = True
    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["adalora"], Key("Type of the adapter."), Peft("")] = "adalora"
    init_rank: Annotated[int, Key("Rank at the start."), _COUNT, Peft("init_r")] = 12
    target_rank: Annotated[int, Key("Mean rank at the end."), _COUNT, Peft("target_r")] = 8
    alpha: Annotated[float, Key("Scale: what it gives is multiplied by alpha / rank."), _ALPHA, Peft("lora_alpha")] = (
        8.0
    )
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("lora_dropout")] = 0.0
    tinit: Annotated[int, Key("Steps before the first rank is dropped."), Number(minimum=0, maximum=10**9)] = 0
    tfinal: Annotated[int, Key("Steps at the end with the ranks that are left."), Number(minimum=0, maximum=10**9)] = 0
    interval: Annotated[
        int, Key("Steps from one drop to the next."), Number(minimum=1, maximum=10**9), Peft("deltaT")
    ] = 1
    beta1: Annotated[float, Key("How slowly the mean of the importance moves."), Number(above=0, below=1)] = 0.85
    beta2: Annotated[float, Key("How slowly the mean of its uncertainty moves."), Number(above=0, below=1)] = 0.85
    orthogonality: Annotated[
        float,
        Key("Weight, in the loss, of keeping the vectors orthogonal."),
        Number(above=0, maximum=1e3),
        Peft("orth_reg_weight"),
    ] = 0.5

    def clash(self) -> Clash | None:
        """Ranks are dropped: some must be too many at the start."""
        if self.target_rank >= self.init_rank:
            return Clash(
                path=("target_rank",),
                problem=f"{self.target_rank} is no less than the {self.init_rank} of the start",
                mend="write less than `init_rank`, or use lora",
            )
        return None

    def numbers(self, rows: int, columns: int) -> int:
        """Vectors of both sides, and values."""
        return self.init_rank * (rows + columns + 1)
