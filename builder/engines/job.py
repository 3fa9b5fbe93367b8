"""The Job and Trained values: what an engine is told, and what it gives back. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
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
        data: What is learnt, as errors name it.
        places: Tells where each row of the data stands, as ``file, row 7``; asked only where a batch is to be named.
        artifact_bytes: Bytes that the artifact may take, for the check of the disk.
        memory: The memory that a single row at a time is expected to take, in words; empty where nobody knows.
        smaller: What would take less memory than that; empty where nobody knows.
        report_to: Trackers that the runner reports to.
        run: What they call this training.
        round_steps: Optimiser steps between two places where a checkpoint can be gone on from; 1: everywhere.
    """

    training: Training
    steps: int
    split: Split
    checkpoint_steps: int
    folder: Path
    device: Device
    say: Callable[[str], None]
    data: str = ""
    places: Callable[[], Sequence[str]] = tuple
    artifact_bytes: int = 0
    memory: str = ""
    smaller: str = ""
    report_to: tuple[str, ...] = ()
    run: str = "training"
    round_steps: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A model after its training.

    Attributes:
        model: The module tree that was trained; with an adapter, PEFT's wrapper of it.
        history: What was logged of each optimiser step, from the first one on, also over a resume.
        tokens: Tokens that went through the model in training, padding left out.
        resumed_from: Step of the checkpoint that this process began at; 0 for the beginning.
        duration_s: Seconds of training in this process, set-up left out.
        measured: Step and loss on held-out rows, of each measurement; empty where nothing is held out.
        kept_step: Step whose weights the model has; 0 for those of the last one.
        memory_mib: Largest memory of the GPU that was allocated, MiB; 0 without one.
    """

    model: Any
    history: tuple[Mapping[str, float], ...]
    tokens: int
    resumed_from: int
    duration_s: float
    measured: tuple[tuple[int, float], ...] = ()
    kept_step: int = 0
    memory_mib: float = 0.0
