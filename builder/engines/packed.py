"""Batches of packed sequences: rows of equal length, whose parts do not see each other.

TRL lays a whole micro-batch end to end, for kernels that are given the bounds of each part. Without such kernels
attention would grow with the square of the micro-batch, so sequences stay rows here, and positions that begin again at
0 tell the model where a part begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

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
        rows = [_row(example, length) for example in examples]
        fill = {"input_ids": self.pad_token_id, "labels": IGNORED, "position_ids": 0}
        return {
            name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)
            for name, value in fill.items()
        }


def _row(example: Mapping[str, Any], length: int) -> dict[str, torch.Tensor]:
    ids, labels = torch.tensor(example["input_ids"]), torch.tensor(example["labels"])
    spare = length - len(ids)
    lengths = [*example["seq_lengths"], *([spare] if spare else [])]
    positions = torch.cat([torch.arange(part) for part in lengths])
    # What precedes a part is another row, or nothing: its first token cannot be told from it.
    labels[positions[: len(ids)] == 0] = IGNORED
    return {"input_ids": ids, "labels": labels, "position_ids": positions}
