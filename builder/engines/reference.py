"""The reference of a training: an adapter as it came; and its log-probabilities, worked out before the first step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from builder.engines.ranks import spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["COLUMNS", "keep_reference", "reference_log_probs"]

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
"""As TRL's collator calls them."""

_TRAINED: Final = "default"
_KEPT: Final = "ref"  # TRL's name of the copy


def keep_reference(model: Any) -> None:  # noqa: ANN401 - PEFT has no types
    """Make the adapter that a trainer keeps as its reference the adapter that goes on, in every tensor.

    TRL copies those whose name has ``.default.`` in it. Most types keep theirs under names that end in ``.default``,
    as does LoRA on an embedding, and the copy of those would stay freshly initialised.

    Args:
        model: The trainer's model, before the first step. Without such a copy nothing happens.
    """
    if _KEPT not in getattr(model, "peft_config", {}):
        return
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    for name, tensor in tensors.items():
        parts = name.split(".")
        if _TRAINED in parts:
            copy = ".".join(_KEPT if part == _TRAINED else part for part in parts)
            # What one tensor serves for both has no second name.
            if copy in tensors:
                tensors[copy].data.copy_(tensor.data)


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
