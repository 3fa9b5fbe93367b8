"""``orpo``: training on preferences by the odds of both answers; whole models, components and adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.stages.data_rows import training_rows
from builder.stages.preferences import train_on_pairs
from builder.stages.training import start

if TYPE_CHECKING:
    from builder.stage import Context, Outcome
    from builder.train_stages import OrpoStage

__all__ = ["orpo"]


def orpo(context: Context[OrpoStage]) -> Outcome:
    """Train on preferences, by odds ratio preference optimisation; nothing is held against a reference.

    Raises:
        InvalidError: Rows, selector or chat template do not do.
        MachineError: The installed TRL lacks the trainer, the loss is no number, or the device or its memory does not
            do.
    """
    data = training_rows(context)
    device = start(context)
    from builder.engines.orpo import train_orpo  # noqa: PLC0415 - the libraries read what start() has set

    return train_on_pairs(context, data, device, train_orpo)
