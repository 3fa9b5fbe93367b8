"""Preferences as both whole sequences with labels, in the order of training, for trainers without a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasets import Dataset

from builder.engines.schedule import by_length, visit_order
from builder.stages.tokens import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.engines.job import Job
    from builder.stages.tokens import Pair

__all__ = ["held_out", "order_of", "sequences"]


def order_of(job: Job, pairs: Sequence[Pair]) -> list[int]:
    """Numbers of the pairs in the order of training; the longest of each batch first."""
    training = job.training
    lengths = [pair.longest(training.max_length) for pair in pairs]
    visits = visit_order(len(pairs), visits=job.steps * training.batch, seed=training.seed)
    return by_length(visits, lengths, batch=training.batch)


def sequences(pairs: Sequence[Pair], order: Sequence[int], *, max_length: int) -> Dataset:
    """Rows of token ids, attention masks and labels of both sequences of each pair, cut at ``max_length``."""
    columns: dict[str, list[list[int]]] = {}
    for name in ("chosen", "rejected"):
        answers = [pair.chosen if name == "chosen" else pair.rejected for pair in pairs]
        ids = [[*pair.prompt, *answer][:max_length] for pair, answer in zip(pairs, answers, strict=True)]
        prompts = [min(len(pair.prompt), max_length) for pair in pairs]
        columns[f"{name}_input_ids"] = ids
        columns[f"{name}_attention_mask"] = [[1] * len(one) for one in ids]
        columns[f"{name}_labels"] = [[IGNORED] * start + one[start:] for start, one in zip(prompts, ids, strict=True)]
    return Dataset.from_dict(columns).select(order)


def held_out(pairs: Sequence[Pair] | None, *, max_length: int) -> Dataset | None:
    """The same for pairs that are not learnt, the longest first; ``None`` where there are none."""
    if not pairs:
        return None
    order = sorted(range(len(pairs)), key=lambda row: -pairs[row].longest(max_length))
    return sequences(pairs, order, max_length=max_length)
