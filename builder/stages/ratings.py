"""What models that score give for token sequences: the number at the last token that is no padding, in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from builder.stages.likelihood import Score, split_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.stages.sequences import Counted

__all__ = ["rate"]


@torch.inference_mode()
def rate(models: Sequence[Any], sequences: Sequence[Counted], *, batch: int) -> list[Score]:
    """Rate sequences under one model or several.

    Args:
        models: Classifiers with one label, on one device.
        sequences: What to rate.
        batch: Sequences at once, at most.

    Returns:
        For each sequence, in their order, what it costs: minus its score.
    """
    costs: dict[int, tuple[float, ...]] = {}
    for group in split_rows([len(one.ids) for one in sequences], batch=batch, vocabulary=1):
        rows = [sequences[index] for index in group]
        rated = [_rated(model, rows) for model in models]
        for at, index in enumerate(group):
            costs[index] = tuple(-one[at] for one in rated)
    return [Score(nats=costs[index], divergence=0.0, agreed=0) for index in range(len(sequences))]


def _rated(model: Any, rows: Sequence[Counted]) -> list[float]:  # noqa: ANN401 - transformers has no types
    """The scores of a padded batch; where it ends, a model tells by its own padding token."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), model.config.get_text_config().pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        mask[index, : len(row.ids)] = 1
    output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
    return [float(score) for score in output.logits[:, 0]]
