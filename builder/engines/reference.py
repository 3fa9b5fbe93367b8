"""What the reference of a preference training gives its rows: log-probabilities, worked out before the first step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from builder.engines.ranks import spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["COLUMNS", "reference_log_probs"]

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
"""As TRL's collator calls them."""


def reference_log_probs(
    trainer: Any,  # noqa: ANN401 - TRL has no types
    rows: Sequence[Mapping[str, Any]],
    *,
    batch: int,
) -> dict[str, list[float]]:
    """Log-probabilities of both answers of every pair under the reference that the trainer has.

    TRL does the same at the start of a trainer, after it has hashed every weight of the model and written tables to the
    disk, in time that a large model spends better.

    Args:
        trainer: TRL's DPO trainer, before its first step.
        rows: Pairs as token ids: ``prompt_ids``, ``chosen_ids``, ``rejected_ids``. Neighbours are worked on together,
            so rows of like lengths should stand together.
        batch: Pairs at once.

    Returns:
        Sums over the tokens of the answers, in nats, by TRL's names of the columns.
    """
    parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    pairs = [pair for part in spread(parts, partial(_of_some, trainer)) for pair in part]
    return {name: [pair[side] for pair in pairs] for side, name in enumerate(COLUMNS)}


def _of_some(trainer: Any, rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:  # noqa: ANN401
    tensors = {name: tensor.to(trainer.args.device) for name, tensor in trainer.data_collator(rows).items()}
    chosen, rejected = trainer.compute_ref_log_probs(trainer.model, tensors)
    return list(zip(chosen.tolist(), rejected.tolist(), strict=True))
