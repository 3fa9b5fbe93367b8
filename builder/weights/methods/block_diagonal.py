"""BD-LoRA: LoRA whose one factor is block-diagonal, so that it can be cut over devices (PEFT's BdLoraConfig)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from builder.weights.method import load_float64
from builder.weights.methods.product import LowRank, Product

if TYPE_CHECKING:
    import torch

    from builder.weights.effect import LoadedEffect, Span
    from builder.weights.peft_config import PeftConfig

__all__ = ["BlockDiagonal", "blocks_of"]

_AGAIN = "save the adapter again"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockDiagonal:
    """BD-LoRA: plain LoRA of which one factor is block-diagonal; of that one, only the blocks are stored, in a column.

    Attributes:
        product: The factors as they are stored.
        down_blocks: Blocks of A, which is stored as ``[rank, in / blocks]``; 1 where it is a plain factor.
        up_blocks: Blocks of B, which is stored as ``[out, rank / blocks]``; 1 where it is a plain factor.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    product: LowRank
    down_blocks: int = 1
    up_blocks: int = 1

    def load(self, device: torch.device) -> LoadedEffect:
        """Read both factors, and put the blocks in their places.

        Raises:
            InvalidError: A factor holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        down = _block_diagonal(load_float64(self.product.down, device), self.down_blocks)
        up = _block_diagonal(load_float64(self.product.up, device), self.up_blocks)
        return Product(up=up.mul_(self.product.scale), down=down)


def _block_diagonal(column: torch.Tensor, blocks: int) -> torch.Tensor:
    """Blocks that lie one under the other, put on the diagonal of a matrix of zeros."""
    rows, columns = column.shape[0] // blocks, column.shape[1]
    matrix = column.new_zeros(blocks * rows, blocks * columns)
    for block in range(blocks):
        across = slice(block * columns, (block + 1) * columns)
        down = slice(block * rows, (block + 1) * rows)
        matrix[down, across] = column[down]
    return matrix


def blocks_of(config: PeftConfig, module: str, rank: int, shape: tuple[int, int]) -> tuple[int, int]:
    """How many blocks factor A has, and factor B; 1 where one is a plain factor.

    Args:
        config: The adapter's configuration.
        module: Name of the module.
        rank: Of its product.
        shape: ``(out, in)`` of its weight.

    Raises:
        InvalidError: The configuration does not tell, or the blocks do not come out even.
    """
    said = config.values.get("use_bdlora")
    if not said:
        return 1, 1
    table = said if isinstance(said, dict) else {"nblocks": 0}
    count = table.get("nblocks", 1)
    named = [table.get(key) or [] for key in ("target_modules_bd_a", "target_modules_bd_b")]
    if not isinstance(count, int) or isinstance(count, bool) or count < 1 or not all(map(_are_words, named)):
        raise config.refused(f"use_bdlora = {said!r} is not what PEFT saves", _AGAIN)
    # PEFT looks for each word anywhere in the module's name.
    down, up = (any(str(word) in module for word in words) for words in named if isinstance(words, list))
    if down and up:
        raise config.refused(f"use_bdlora makes both factors of {module} block-diagonal", _AGAIN)
    if (down or up) and (rank % count or shape[1 if down else 0] % count):
        raise config.refused(f"use_bdlora cuts {module} into {count} blocks, which do not come out even", _AGAIN)
    return count if down else 1, count if up else 1


def _are_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
