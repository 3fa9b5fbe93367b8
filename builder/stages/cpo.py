"""``cpo``: training on preferences by contrast, SimPO among it; whole models, components and adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.stages.data_rows import training_rows
from builder.stages.preferences import train_on_pairs
from builder.stages.training import start

if TYPE_CHECKING:
    from builder.stage import Context, Outcome
    from builder.train_stages import CpoStage

__all__ = ["cpo"]


def cpo(context: Context[CpoStage]) -> Outcome:
    """Train on preferences, by contrastive preference optimisation; nothing is held against a reference.

    Raises:
        InvalidError: Rows, selector or chat template do not do.
        MachineError: The installed TRL lacks the trainer, the loss is no number, or the device or its memory does not
            do.
    """
    data = training_rows(context)
    device = start(context)
    from builder.engines.cpo import train_cpo  # noqa: PLC0415 - the libraries read what start() has set

    return train_on_pairs(context, data, device, train_cpo)
