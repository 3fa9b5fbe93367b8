"""Adapters with few numbers in chosen places, of the weight or of a transform of it."""

from __future__ import annotations

import math
from collections.abc import Mapping  # noqa: TC003 - the shapes are made from the classes' hints
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from builder.adapter_types.table import Dropout, OnMatrices, Peft, Seed
from builder.clash import Clash
from builder.shapes import Number
from builder.tables import Key
from builder.weighting import Weighting

if TYPE_CHECKING:
    from builder.adapter_types.table import Shapes

__all__ = [
    "C3aSettings",
    "FourierftSettings",
    "MissSettings",
    "OsfSettings",
    "ShiraSettings",
    "SupertuningSettings",
    "WaveftSettings",
]

_WHOLE = Number(integer=True, minimum=1, maximum=2**24)
_COUNT = Number(minimum=1, maximum=4096)
_SCALE = Number(above=0, maximum=1e6)
_FREQUENCIES: Final = Weighting.of(1000)
_COEFFICIENTS: Final = Weighting.of(2592)
_BLOCK: Final = Weighting.of(256)


@dataclass(frozen=True, kw_only=True, slots=True)
class FourierftSettings(OnMatrices):
    """A new FourierFT adapter: some frequencies of the change's spectrum."""

    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["fourierft"], Key("Type of the adapter."), Peft("")] = "fourierft"
    frequencies: Annotated[
        Weighting, Key("Frequencies of each weight."), _WHOLE, Peft("n_frequency", "n_frequency_pattern")
    ] = _FREQUENCIES
    scaling: Annotated[float, Key("What they give is multiplied by this."), _SCALE] = 150.0
    init: Annotated[Literal["normal", "zero"], Key("How they start; `normal` changes the model at once."), Peft("")] = (
        "normal"
    )
    seed: Annotated[Seed, Key("Seed of their places."), Peft("random_loc_seed")] = 777

    def told(self) -> Mapping[str, object]:
        """PEFT's word for the start."""
        return {"init_weights": self.init == "zero"}

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:
        """No more frequencies than there are."""
        return _too_many("frequencies", self.frequencies, rows, columns)

    def numbers(self, rows: int, columns: int) -> int:  # noqa: ARG002 - the same for any weight
        """One for each frequency."""
        return math.ceil(self.frequencies.largest)


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveftSettings(OnMatrices):
    """A new WaveFT adapter: some wavelet coefficients of the change."""

    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["waveft"], Key("Type of the adapter."), Peft("")] = "waveft"
    coefficients: Annotated[
        Weighting, Key("Coefficients of each weight."), _WHOLE, Peft("n_frequency", "n_frequency_pattern")
    ] = _COEFFICIENTS
    scaling: Annotated[float, Key("What they give is multiplied by this."), _SCALE] = 25.0
    wavelet: Annotated[
        Literal["db1", "db2", "db4", "sym2", "sym4", "coif1"], Key("The wavelet."), Peft("wavelet_family")
    ] = "db1"
    idwt: Annotated[bool, Key("Transform them back; else they are the change itself."), Peft("use_idwt")] = True
    seed: Annotated[Seed, Key("Seed of their places."), Peft("random_loc_seed")] = 777

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:
        """No more coefficients than there are."""
        return _too_many("coefficients", self.coefficients, rows, columns)

    def numbers(self, rows: int, columns: int) -> int:  # noqa: ARG002 - the same for any weight
        """One for each coefficient."""
        return math.ceil(self.coefficients.largest)


@dataclass(frozen=True, kw_only=True, slots=True)
class C3aSettings(OnMatrices):
    """A new C3A adapter: circulant blocks."""

    type: Annotated[Literal["c3a"], Key("Type of the adapter."), Peft("")] = "c3a"
    block_size: Annotated[
        Weighting,
        Key("Side of a block; a divisor of both sides of each weight."),
        _WHOLE,
        Peft("block_size", "block_size_pattern"),
    ] = _BLOCK
    init: Annotated[
        Literal["xavier_uniform", "kaiming_uniform", "gaussian", "zero"],
        Key("How they start; all but `zero` change the model at once."),
        Peft(""),
    ] = "xavier_uniform"

    def told(self) -> Mapping[str, object]:
        """PEFT's word for the start."""
        return {"init_weights": True if self.init == "zero" else self.init}

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:
        """Blocks divide both sides; sizes that differ by weight are looked at by PEFT."""
        size = self.block_size.constant
        side = next((side for side in (rows, columns) if size and side % int(size)), 0)
        return ("block_size", f"{size:.0f} does not divide {side}") if side else ("", "")

    def numbers(self, rows: int, columns: int) -> int:
        """A row of each block."""
        return -(-rows * columns // int(min(self.block_size.numbers)))


@dataclass(frozen=True, kw_only=True, slots=True)
class MissSettings(OnMatrices):
    """A new MiSS adapter: one small block, repeated over the weight; Bone, with ``init: bat``."""

    QUANTISED: ClassVar[bool] = True

    type: Annotated[Literal["miss"], Key("Type of the adapter."), Peft("")] = "miss"
    rank: Annotated[int, Key("Inputs of the block."), _COUNT, Peft("r")] = 64
    mini_rank: Annotated[int, Key("Outputs that share a number, with `init: mini`."), _COUNT, Peft("mini_r")] = 1
    init: Annotated[
        Literal["balance", "bat", "mini"],
        Key("Which of its three forms: plain, times the weight, or smaller."),
        Peft(""),
    ] = "balance"
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("miss_dropout")] = 0.0

    def told(self) -> Mapping[str, object]:
        """PEFT's word for the form."""
        return {"init_weights": True if self.init == "balance" else self.init}

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:
        """Blocks that multiply the weight divide it."""
        if self.rank > columns:
            return "rank", f"{self.rank} is more than {columns}"
        side = next((side for side in (rows, columns) if side % self.rank), 0)
        if self.init == "bat" and side:
            return "rank", f"{self.rank} does not divide {side}"
        if self.init == "mini" and rows % self.mini_rank:
            return "mini_rank", f"{self.mini_rank} does not divide {rows}"
        return "", ""

    def numbers(self, rows: int, columns: int) -> int:
        """The block; with ``bat`` one for each block of outputs."""
        return self.rank * max(rows, columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShiraSettings(OnMatrices):
    """A new SHiRA adapter: some numbers of the weight, chosen at random."""

    QUANTISED: ClassVar[bool] = True

    type: Annotated[Literal["shira"], Key("Type of the adapter."), Peft("")] = "shira"
    rank: Annotated[int, Key("As many numbers as a LoRA of this rank."), _COUNT, Peft("r")] = 32
    seed: Annotated[Seed, Key("Seed of their places."), Peft("random_seed")] = 0

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:
        """No more numbers than the weight has."""
        count = self.rank * (rows + columns)
        return ("rank", f"{count} numbers of {rows * columns}") if count > rows * columns else ("", "")

    def numbers(self, rows: int, columns: int) -> int:
        """As LoRA."""
        return self.rank * (rows + columns)

    def saved(self, shapes: Shapes) -> int:
        """A pair of places in 32 bits is saved with each."""
        return 3 * self.trained(shapes)


@dataclass(frozen=True, kw_only=True, slots=True)
class SupertuningSettings(OnMatrices):
    """A new Super-Tuning adapter: the largest numbers of the weight; with a rank, LoRA beside (Supra)."""

    ALWAYS: ClassVar[Mapping[str, object]] = {"save_precomputed_indices": True}

    type: Annotated[Literal["supertuning"], Key("Type of the adapter."), Peft("")] = "supertuning"
    sparsity: Annotated[float, Key("Share of the numbers that stay."), Number(minimum=0, below=1)] = 0.99
    largest: Annotated[bool, Key("Train the largest; else the smallest."), Peft("select_top")] = True
    rank: Annotated[int, Key("Rank of a LoRA beside; 0 for none."), Number(minimum=0, maximum=4096), Peft("")] = 0
    alpha: Annotated[
        float, Key("Its scale: alpha / rank; 0 takes twice the rank."), Number(minimum=0, maximum=1e6), Peft("")
    ] = 0.0
    dropout: Annotated[Dropout, Key("Share of its inputs that training drops."), Peft("lora_dropout")] = 0.0

    def told(self) -> Mapping[str, object]:
        """PEFT's words for a LoRA beside."""
        return {"r": self.rank or None, "lora_alpha": self.alpha or None, **self.ALWAYS}

    def clash(self) -> Clash | None:
        """A scale is one of something."""
        if self.alpha and not self.rank:
            return Clash(path=("alpha",), problem="a scale, and no rank", mend="write `rank`, or take it out")
        return None

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:
        """Something must be left to train."""
        left = int(rows * columns * (1 - self.sparsity))
        return ("sparsity", f"it leaves none of {rows * columns} numbers") if left < 1 else ("", "")

    def numbers(self, rows: int, columns: int) -> int:
        """The chosen ones, and the factors."""
        return math.ceil(rows * columns * (1 - self.sparsity)) + 1 + self.rank * (rows + columns)

    def saved(self, shapes: Shapes) -> int:
        """A place in 64 bits is saved with each."""
        return 3 * self.trained(shapes)


@dataclass(frozen=True, kw_only=True, slots=True)
class OsfSettings(OnMatrices):
    """A new OSF adapter: the weight's smaller singular directions, its larger ones held."""

    type: Annotated[Literal["osf"], Key("Type of the adapter."), Peft("")] = "osf"
    effective_rank: Annotated[
        int, Key("Largest directions that are held; 0 holds half of them."), Number(minimum=0, maximum=2**16), Peft("")
    ] = 0

    def told(self) -> Mapping[str, object]:
        """PEFT's word for half of them."""
        return {"effective_rank": self.effective_rank or None}

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:
        """Some must be left to train."""
        if self.effective_rank >= min(rows, columns):
            return "effective_rank", f"it holds all of {min(rows, columns)} directions"
        return "", ""

    def numbers(self, rows: int, columns: int) -> int:
        """Both sides of what is left."""
        shorter = min(rows, columns)
        return (shorter - (self.effective_rank or shorter // 2)) * (rows + columns + 1)


def _too_many(key: str, wanted: Weighting, rows: int, columns: int) -> tuple[str, str]:
    """A fault where more numbers are asked for than a matrix has."""
    if wanted.constant is not None and wanted.constant > rows * columns:
        return key, f"{wanted.constant:.0f} of {rows * columns}"
    return "", ""
