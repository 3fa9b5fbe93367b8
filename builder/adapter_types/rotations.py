"""Adapters that turn a weight: OFT, BOFT, HRA, RoAd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from builder.adapter_types.table import Dropout, OnMatrices, Peft
from builder.clash import Clash
from builder.compound import Either
from builder.shapes import Number
from builder.tables import Key, Rules

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BoftSettings", "HraSettings", "OftSettings", "RoadSettings"]

_SIZE = Number(minimum=2, maximum=2**16)
_BLOCKS = Number(minimum=0, maximum=2**16)
_COUNT = Number(minimum=1, maximum=4096)
_ONE_SIZE = Rules(either=(Either(groups=(("block_size",), ("blocks",)), mend="keep one: the other follows from it"),))


@dataclass(frozen=True, kw_only=True, slots=True)
class OftSettings(OnMatrices):
    """A new OFT adapter: turns blocks of a weight's inputs."""

    RULES: ClassVar[Rules] = _ONE_SIZE
    QUANTISED: ClassVar[bool] = True

    type: Annotated[Literal["oft"], Key("Type of the adapter."), Peft("")] = "oft"
    block_size: Annotated[
        int, Key("Inputs that are turned together; a divisor of each weight's inputs."), _SIZE, Peft("")
    ] = 32
    blocks: Annotated[int, Key("Blocks in a weight; 0 takes as many as `block_size` gives."), _BLOCKS, Peft("r")] = 0
    block_share: Annotated[bool, Key("Turn all blocks of a weight alike.")] = False
    coft: Annotated[bool, Key("Keep the turn small (COFT).")] = False
    eps: Annotated[float, Key("How small, with `coft`."), Number(above=0, maximum=1)] = 6e-5
    cayley_neumann: Annotated[
        bool, Key("Make the turns by a short series rather than an inverse."), Peft("use_cayley_neumann")
    ] = True
    terms: Annotated[
        int, Key("Terms of that series."), Number(minimum=1, maximum=100), Peft("num_cayley_neumann_terms")
    ] = 5
    dropout: Annotated[
        Dropout, Key("Share of the blocks that training leaves as they are."), Peft("module_dropout")
    ] = 0.0

    def told(self) -> Mapping[str, object]:
        """PEFT takes the size, or the number of blocks."""
        return {"oft_block_size": 0 if self.blocks else self.block_size}

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:  # noqa: ARG002 - it turns inputs
        """Blocks divide the inputs."""
        key, part = ("blocks", self.blocks) if self.blocks else ("block_size", self.block_size)
        return (key, f"{part} does not divide {columns}") if columns % part else ("", "")

    def numbers(self, rows: int, columns: int) -> int:  # noqa: ARG002 - it turns inputs
        """Half a block's square for each block."""
        size = columns // self.blocks if self.blocks else self.block_size
        return columns * max(size - 1, 1) // 2 + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class BoftSettings(OnMatrices):
    """A new BOFT adapter: turns in the order of a butterfly."""

    RULES: ClassVar[Rules] = _ONE_SIZE
    QUANTISED: ClassVar[bool] = True

    type: Annotated[Literal["boft"], Key("Type of the adapter."), Peft("")] = "boft"
    block_size: Annotated[
        int, Key("Inputs that are turned together; a divisor of each weight's inputs."), _SIZE, Peft("")
    ] = 4
    blocks: Annotated[
        int, Key("Blocks in a weight; 0 takes as many as `block_size` gives."), _BLOCKS, Peft("boft_block_num")
    ] = 0
    factors: Annotated[
        int,
        Key("Turns, one after the other, of blocks that lie crosswise."),
        Number(minimum=1, maximum=16),
        Peft("boft_n_butterfly_factor"),
    ] = 1
    dropout: Annotated[Dropout, Key("Share of the blocks that training leaves as they are."), Peft("boft_dropout")] = (
        0.0
    )

    def told(self) -> Mapping[str, object]:
        """PEFT takes the size, or the number of blocks."""
        return {"boft_block_size": 0 if self.blocks else self.block_size}

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:  # noqa: ARG002 - it turns inputs
        """Blocks divide the inputs, and are enough to be paired once for each further turn."""
        key, part = ("blocks", self.blocks) if self.blocks else ("block_size", self.block_size)
        if columns % part:
            return key, f"{part} does not divide {columns}"
        size, count = (columns // part, part) if self.blocks else (part, columns // part)
        pairs = 2 ** (self.factors - 1)
        if self.factors > 1 and (count % pairs or size % 2 or count % 2):
            return "factors", f"{count} blocks of {size} cannot be paired {self.factors - 1} times over"
        return "", ""

    def numbers(self, rows: int, columns: int) -> int:
        """A block's square for each block and turn, and a scale for each output."""
        size = columns // self.blocks if self.blocks else self.block_size
        return self.factors * columns * size + rows


@dataclass(frozen=True, kw_only=True, slots=True)
class HraSettings(OnMatrices):
    """A new HRA adapter: mirrors, one after the other."""

    type: Annotated[Literal["hra"], Key("Type of the adapter."), Peft("")] = "hra"
    rank: Annotated[int, Key("Mirrors; an even number starts as doing nothing."), _COUNT, Peft("r")] = 8
    gram_schmidt: Annotated[bool, Key("Keep the mirrors orthogonal."), Peft("apply_GS")] = False

    def clash(self) -> Clash | None:
        """Pairs of equal mirrors undo each other; one that is left would change the model before the first step."""
        if self.rank % 2:
            return Clash(path=("rank",), problem="an odd number of mirrors", mend="write an even number")
        return None

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:  # noqa: ARG002 - it mirrors inputs
        """Orthogonal mirrors are no more than the inputs."""
        return ("rank", f"{self.rank} mirrors of {columns} inputs") if self.rank > columns else ("", "")

    def numbers(self, rows: int, columns: int) -> int:  # noqa: ARG002 - it mirrors inputs
        """A vector for each mirror."""
        return self.rank * columns


@dataclass(frozen=True, kw_only=True, slots=True)
class RoadSettings(OnMatrices):
    """A new RoAd adapter: turns and stretches pairs of outputs."""

    QUANTISED: ClassVar[bool] = True

    type: Annotated[Literal["road"], Key("Type of the adapter."), Peft("")] = "road"
    variant: Annotated[
        Literal["road_1", "road_2", "road_4"], Key("Numbers for each pair: one, two or four of either sort.")
    ] = "road_1"
    group_size: Annotated[
        int, Key("Outputs whose halves are paired; an even divisor of each weight's outputs."), _SIZE
    ] = 64

    def clash(self) -> Clash | None:
        """A group has two halves."""
        if self.group_size % 2:
            return Clash(path=("group_size",), problem="a group of odd size has no halves", mend="make it even")
        return None

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:  # noqa: ARG002 - it turns outputs
        """Groups divide the outputs."""
        return ("group_size", f"{self.group_size} does not divide {rows}") if rows % self.group_size else ("", "")

    def numbers(self, rows: int, columns: int) -> int:  # noqa: ARG002 - it turns outputs
        """Angles and lengths."""
        return int(self.variant[-1]) * rows
