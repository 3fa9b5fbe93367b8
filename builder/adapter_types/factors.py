"""Adapters that change a weight by products of small factors: the kin of LoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from builder.adapter_types.table import Dropout, OnMatrices, Peft
from builder.clash import Clash
from builder.shapes import Number
from builder.tables import Key
from builder.weighting import Weighting

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DeftSettings",
    "DeloraSettings",
    "GloraSettings",
    "GraloraSettings",
    "HiraSettings",
    "LohaSettings",
    "LokrSettings",
    "PeanutSettings",
]

_EIGHT: Final = Weighting.of(8)
_FIFTEEN: Final = Weighting.of(15)
_THIRTY_TWO: Final = Weighting.of(32)
_RANK = Number(integer=True, minimum=1, maximum=4096)
_ALPHA = Number(above=0, maximum=1e6)
_COUNT = Number(minimum=1, maximum=4096)


@dataclass(frozen=True, kw_only=True, slots=True)
class LohaSettings(OnMatrices):
    """A new LoHa adapter: the elementwise product of two products."""

    type: Annotated[Literal["loha"], Key("Type of the adapter."), Peft("")] = "loha"
    rank: Annotated[Weighting, Key("Rank of each of the two products."), _RANK, Peft("r", "rank_pattern")] = _EIGHT
    alpha: Annotated[
        Weighting, Key("Scale: what it gives is multiplied by alpha / rank."), _ALPHA, Peft("alpha", "alpha_pattern")
    ] = _EIGHT
    rank_dropout: Annotated[Dropout, Key("Share of the rows of the change that training drops.")] = 0.0
    module_dropout: Annotated[Dropout, Key("Share of the weights whose adapter training leaves out.")] = 0.0

    def numbers(self, rows: int, columns: int) -> int:
        """Four factors."""
        return 2 * math.ceil(self.rank.largest) * (rows + columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class LokrSettings(OnMatrices):
    """A new LoKr adapter: a Kronecker product."""

    type: Annotated[Literal["lokr"], Key("Type of the adapter."), Peft("")] = "lokr"
    rank: Annotated[Weighting, Key("Rank of the larger block."), _RANK, Peft("r", "rank_pattern")] = _EIGHT
    alpha: Annotated[
        Weighting, Key("Scale: what it gives is multiplied by alpha / rank."), _ALPHA, Peft("alpha", "alpha_pattern")
    ] = _EIGHT
    rank_dropout: Annotated[Dropout, Key("Share of the rows of the change that training drops.")] = 0.0
    module_dropout: Annotated[Dropout, Key("Share of the weights whose adapter training leaves out.")] = 0.0
    decompose_both: Annotated[bool, Key("Take the smaller block apart into factors, too.")] = False
    decompose_factor: Annotated[
        int, Key("Size of the smaller block; -1 takes the nearest to a square."), Number(minimum=-1, maximum=4096)
    ] = -1
    init: Annotated[
        Literal["default", "lycoris"], Key("How the blocks start: PEFT's way, or that of the first version."), Peft("")
    ] = "default"

    def told(self) -> Mapping[str, object]:
        """PEFT's word for the start."""
        return {"init_weights": True if self.init == "default" else self.init}

    def clash(self) -> Clash | None:
        """A block has a size, or PEFT chooses it."""
        if self.decompose_factor == 0:
            return Clash(path=("decompose_factor",), problem="a block of no size", mend="write -1, or a size from 1")
        return None

    def numbers(self, rows: int, columns: int) -> int:
        """The whole matrix at most, where the factors would be larger."""
        return min(rows * columns, math.ceil(self.rank.largest) * (rows + columns)) + rows + columns


@dataclass(frozen=True, kw_only=True, slots=True)
class DeloraSettings(OnMatrices):
    """A new DeLoRA adapter: normalised factors, with a bound on how far the weight moves."""

    type: Annotated[Literal["delora"], Key("Type of the adapter."), Peft("")] = "delora"
    rank: Annotated[Weighting, Key("Rank of the two factors."), _RANK, Peft("r", "rank_pattern")] = _EIGHT
    bound: Annotated[
        Weighting,
        Key("Lambda: the first bound on the norm of the change."),
        _ALPHA,
        Peft("delora_lambda", "lambda_pattern"),
    ] = _FIFTEEN
    dropout: Annotated[
        Dropout, Key("Share of the weights whose adapter training leaves out."), Peft("module_dropout")
    ] = 0.0

    def numbers(self, rows: int, columns: int) -> int:
        """Two factors, the bound, and a norm for each input."""
        return math.ceil(self.rank.largest) * (rows + columns) + columns + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class HiraSettings(OnMatrices):
    """A new HiRA adapter: the weight itself, element by element, times a product of factors."""

    QUANTISED: ClassVar[bool] = True
    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["hira"], Key("Type of the adapter."), Peft("")] = "hira"
    rank: Annotated[Weighting, Key("Rank of the two factors."), _RANK, Peft("r", "rank_pattern")] = _THIRTY_TWO
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("hira_dropout")] = 0.0

    def numbers(self, rows: int, columns: int) -> int:
        """Two factors."""
        return math.ceil(self.rank.largest) * (rows + columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraloraSettings(OnMatrices):
    """A new GraLoRA adapter: factors for each block of the weight."""

    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["gralora"], Key("Type of the adapter."), Peft("")] = "gralora"
    rank: Annotated[int, Key("Rank over all blocks; a multiple of `blocks`."), _COUNT, Peft("r")] = 32
    hybrid_rank: Annotated[
        int,
        Key("Rank of plain factors for the whole weight, beside."),
        Number(minimum=0, maximum=4096),
        Peft("hybrid_r"),
    ] = 0
    alpha: Annotated[float, Key("Scale: what it gives is multiplied by alpha / both ranks."), _ALPHA] = 64.0
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("gralora_dropout")] = (
        0.0
    )
    blocks: Annotated[int, Key("Blocks along each side of the weight."), _COUNT, Peft("gralora_k")] = 2

    def clash(self) -> Clash | None:
        """Blocks share the rank."""
        if self.rank % self.blocks:
            return Clash(
                path=("rank",),
                problem=f"{self.blocks} blocks do not share a rank of {self.rank}",
                mend="make the rank a multiple of `blocks`",
            )
        return None

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:
        """Blocks divide both sides."""
        return _divides("blocks", self.blocks, rows, columns)

    def numbers(self, rows: int, columns: int) -> int:
        """Factors of the blocks and of the whole."""
        return (self.rank + self.hybrid_rank) * (rows + columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class GloraSettings(OnMatrices):
    """A new GLoRA adapter: weight and bias, each multiplied and added to, in forms of one's choice."""

    type: Annotated[Literal["glora"], Key("Type of the adapter."), Peft("")] = "glora"
    rank: Annotated[int, Key("Rank where a form has factors."), _COUNT, Peft("r")] = 8
    weight: Annotated[
        Literal["lora", "vector", "constant", "none"],
        Key("Form of what multiplies the weight and of what is added to it (A and B)."),
        Peft("config_A_B"),
    ] = "lora"
    coupling: Annotated[
        Literal["lora", "vector", "none"],
        Key("Form of what makes a bias of the weight (C)."),
        Peft("config_C"),
    ] = "lora"
    bias: Annotated[
        Literal["vector", "constant", "none"],
        Key("Form of what multiplies the bias and of what is added to it (D and E)."),
        Peft("config_D_E"),
    ] = "constant"

    def numbers(self, rows: int, columns: int) -> int:
        """Both forms of the weight, one of the coupling, both of the bias."""
        rank = self.rank
        return 2 * rank * (rows + columns) + 2 * columns + rank * (columns + 1) + 2 * rows + columns


@dataclass(frozen=True, kw_only=True, slots=True)
class DeftSettings(OnMatrices):
    """A new DEFT adapter: takes a subspace out of the weight and puts something else there."""

    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["deft"], Key("Type of the adapter."), Peft("")] = "deft"
    rank: Annotated[int, Key("Rank of the subspace."), _COUNT, Peft("r")] = 8
    alpha: Annotated[
        int,
        Key("Scale: what is put in is multiplied by alpha / rank; 0 puts it in as it is."),
        Number(minimum=0, maximum=10**6),
        Peft(""),
    ] = 0
    decomposition: Annotated[
        Literal["relu", "qr"], Key("How the subspace is made of its factor."), Peft("decomposition_method")
    ] = "relu"
    init_scale: Annotated[float, Key("Size of the first values that are put in."), Number(above=0, maximum=1e3)] = 1.0
    para: Annotated[bool, Key("Only take out (PaRa).")] = False
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("deft_dropout")] = 0.0

    def told(self) -> Mapping[str, object]:
        """PEFT's word for no scale."""
        return {"alpha": self.alpha or None}

    def numbers(self, rows: int, columns: int) -> int:
        """Two factors."""
        return self.rank * (rows + columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class PeanutSettings(OnMatrices):
    """A new PEANuT adapter: a small network that reads the weight and gives its change."""

    type: Annotated[Literal["peanut"], Key("Type of the adapter."), Peft("")] = "peanut"
    rank: Annotated[int, Key("Width of the small network."), _COUNT, Peft("r")] = 32
    depth: Annotated[int, Key("Hidden layers on each side."), Number(minimum=0, maximum=16)] = 0
    activation: Annotated[Literal["relu", "gelu", "silu", "tanh"], Key("Its activation."), Peft("act_fn")] = "relu"
    scaling: Annotated[float, Key("What it gives is multiplied by this."), _ALPHA] = 1.0

    def numbers(self, rows: int, columns: int) -> int:
        """Both projections, and the layers between."""
        return self.rank * (rows + columns) + 2 * self.depth * self.rank**2


def _divides(key: str, part: int, rows: int, columns: int) -> tuple[str, str]:
    """A fault where a whole number does not divide both sides of a matrix."""
    side = next((side for side in (rows, columns) if side % part), 0)
    return (key, f"{part} does not divide {side}") if side else ("", "")
