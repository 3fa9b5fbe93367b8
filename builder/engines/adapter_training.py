"""What some adapters need of the trainer, whatever it trains them for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel

if TYPE_CHECKING:
    from builder.engines.job import Job

__all__ = ["prepare_adapter"]


def prepare_adapter(trainer: Any, job: Job) -> None:  # noqa: ANN401 - TRL has no types
    """Make a trainer ready for the adapter that it trains; of a model without one nothing is changed.

    Args:
        trainer: A transformers trainer, before its first step.
        job: Settings and place.

    Raises:
        InvalidError: The adapter's schedule does not go with the number of steps.
    """
    model = trainer.model
    if not isinstance(model, PeftModel):
        return
    base = model.get_base_model()
    if getattr(base, "is_loaded_in_4bit", False) or getattr(base, "is_loaded_in_8bit", False):
        _widen(model)
    if hasattr(model.base_model, "rankallocator"):
        from builder.engines.rank_allocation import RankAllocation  # noqa: PLC0415 - AdaLoRA only

        trainer.add_callback(RankAllocation(model.base_model, job))


def _widen(model: torch.nn.Module) -> None:
    """TRL makes adapters on quantised weights 16-bit, which loses small steps; they are trained in float32."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32)
