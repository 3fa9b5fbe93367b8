"""Batches of packed sequences: rows of equal length, whose parts do not see each other.

TRL lays a whole micro-batch end to end, for kernels that are given the bounds of each part. Without such kernels
attention would grow with the square of the micro-batch, so sequences stay rows here, and positions that begin again at
0 tell the model where a part begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from builder.stages.tokens import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["PackedRows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """Makes tensors of packed sequences.

    Attributes:
        pad_token_id: What fills a row up.
        multiple: The length of rows is a multiple of it.
    """

    pad_token_id: int
    multiple: int = 1

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors of shape (rows, length), int64: ``input_ids``, ``labels`` and ``position_ids``.

        There is no attention mask: transformers looks for parts by their positions only where there is none. A part
        that fills a row up is a sequence of its own, without labels.
        """
        longest = max(len(example["input_ids"]) for example in examples)
        length = -(-longest // self.multiple) * self.multiple
        rows = [self._row(example, length) for example in examples]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, example: Mapping[str, Any], length: int) -> dict[str, torch.Tensor]:
        spare = length - len(example["input_ids"])
        parts = [*example["seq_lengths"], *([spare] if spare else [])]
        ids = torch.tensor([*example["input_ids"], *[self.pad_token_id] * spare])
        labels = torch.tensor([*example["labels"], *[IGNORED] * spare])
        positions = torch.cat([torch.arange(part) for part in parts])
        # What precedes a part is another row, or nothing: its first token cannot be told from it.
        labels[positions == 0] = IGNORED
        return {"input_ids": ids, "labels": labels, "position_ids": positions}
