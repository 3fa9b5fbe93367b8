"""The Job and Trained values: what an engine is told, and what it gives back. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from builder.engines.schedule import Split
    from builder.environment import Device
    from builder.train_settings import Training

__all__ = ["Job", "Trained"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every trainer needs.

    Attributes:
        training: The stage's ``train`` table.
        steps: Optimiser steps.
        split: How a batch is computed.
        checkpoint_steps: Optimiser steps between two checkpoints.
        folder: Where the checkpoints are.
        device: Where the arithmetic happens.
        say: Tells the person at the terminal.
    """

    training: Training
    steps: int
    split: Split
    checkpoint_steps: int
    folder: Path
    device: Device
    say: Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A model after its training.

    Attributes:
        model: The module tree that was trained; with an adapter, PEFT's wrapper of it.
        history: What was logged of each optimiser step, from the first one on, also over a resume.
        tokens: Tokens that went through the model in training, padding left out.
        resumed_from: Step of the checkpoint that this process began at; 0 for the beginning.
        duration_s: Seconds of training in this process, set-up left out.
    """

    model: Any
    history: tuple[Mapping[str, float], ...]
    tokens: int
    resumed_from: int
    duration_s: float
