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

__all__ = ["PackedRows", "keeps_parts_apart"]

_PART = 8  # tokens of each part that is tried
_ROUNDING = 1e-5  # of the largest logit: rows may be summed in another order, above all by experts
_ROUNDING_OF_16_BITS = 0.01


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


def keeps_parts_apart(model: Any) -> bool:  # noqa: ANN401 - transformers has no types
    """Whether parts of a packed row do not see each other in this model: tried on two rows that differ in one part.

    Only models that make their mask of the positions do so; others, such as OPT, BLOOM and Mamba, take them and see
    whatever precedes.

    Args:
        model: A transformers model, or PEFT's wrapper of one, on its device.
    """
    vocabulary = model.config.get_text_config().vocab_size
    ids = [number * vocabulary // (3 * _PART) for number in range(3 * _PART)]
    rows = [first + ids[2::3] for first in (ids[::3], ids[1::3])]
    batch = PackedRows(pad_token_id=0)([{"input_ids": row, "labels": row, "seq_lengths": [_PART] * 2} for row in rows])
    weights, was_training = model.get_input_embeddings().weight, model.training
    tensors = {name: tensor.to(weights.device) for name, tensor in batch.items() if name != "labels"}
    model.eval()
    try:
        with torch.no_grad():
            one, two = model(**tensors, use_cache=False).logits[:, _PART:].float()
    finally:
        model.train(was_training)
    bound = _ROUNDING if weights.dtype is torch.float32 else _ROUNDING_OF_16_BITS
    return bool((one - two).abs().max() <= bound * one.abs().max())
