"""How likely models find token sequences, and how far two models are apart on them.

Logits are taken in the model's dtype (float32 where a model was opened so) and made probabilities in float64, a block
of tokens at a time. Sequences are padded on the right under an attention mask, so the batch changes a figure only by
rounding in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.stages.sequences import Counted

__all__ = ["Score", "score", "split_rows"]

_ROOM_BYTES = 256 << 20  # logits of one batch and model, float32
_BLOCK_BYTES = 64 << 20  # probabilities of one block of tokens, float64
_FLOAT32_BYTES = 4
_FLOAT64_BYTES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Sums over the tokens that count in one sequence.

    Attributes:
        nats: One figure a model: minus the log-probability, in nats.
        divergence: KL(first || second), in nats; 0 where they are not compared.
        agreed: Tokens for which both models find the same token likeliest; 0 where they are not compared.
    """

    nats: tuple[float, ...]
    divergence: float
    agreed: int


@torch.inference_mode()
def score(models: Sequence[Any], sequences: Sequence[Counted], *, batch: int, compare: bool = False) -> list[Score]:
    """Score sequences under one model or several.

    Args:
        models: Causal models of one vocabulary, on one device.
        sequences: What to score.
        batch: Sequences at once, at most.
        compare: Compare the second model with the first.

    Returns:
        A score for each sequence, in their order.
    """
    vocabulary = models[0].config.get_text_config().vocab_size
    scores: dict[int, Score] = {}
    for group in split_rows([len(one.ids) for one in sequences], batch=batch, vocabulary=vocabulary):
        rows = [sequences[index] for index in group]
        logits = [_logits(model, rows) for model in models]
        for at, index in enumerate(group):
            scores[index] = _score([one[at] for one in logits], sequences[index], compare=compare)
    return [scores[index] for index in range(len(sequences))]


def split_rows(lengths: Sequence[int], *, batch: int, vocabulary: int) -> Iterator[list[int]]:
    """Rows in groups of like length, the longest first, so that little is padding and the logits have room.

    Args:
        lengths: Tokens of each row.
        batch: Rows of a group, at most.
        vocabulary: Logits of each token.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        row_bytes = max(1, lengths[order[start]] * vocabulary * _FLOAT32_BYTES)
        size = max(1, min(batch, _ROOM_BYTES // row_bytes))
        yield order[start : start + size]
        start += size


def _logits(model: Any, rows: Sequence[Counted]) -> torch.Tensor:  # noqa: ANN401 - transformers has no types
    """Logits of a padded batch, shape ``[rows, longest, vocabulary]``."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        mask[index, : len(row.ids)] = 1
    output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
    logits: torch.Tensor = output.logits
    return logits


def _score(logits: Sequence[torch.Tensor], row: Counted, *, compare: bool) -> Score:
    """Sums over one row; ``logits`` has a tensor ``[longest, vocabulary]`` for each model."""
    device = logits[0].device
    targets = torch.tensor(row.ids, device=device)
    nats = [0.0] * len(logits)
    divergence, agreed = 0.0, 0
    block = max(1, _BLOCK_BYTES // (logits[0].shape[-1] * _FLOAT64_BYTES))
    for start in range(0, len(row.places), block):
        places = torch.tensor(row.places[start : start + block], device=device)
        # The logits of a place are those given by the token before it.
        found = [torch.log_softmax(one[places - 1].double(), dim=-1) for one in logits]
        for index, log_probability in enumerate(found):
            nats[index] -= float(log_probability.gather(1, targets[places, None]).sum())
        if compare:
            first, second = found[0], found[1]
            divergence += float((first.exp() * (first - second)).sum())
            agreed += int((first.argmax(dim=-1) == second.argmax(dim=-1)).sum())
    return Score(nats=tuple(nats), divergence=divergence, agreed=agreed)
