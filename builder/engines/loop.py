"""Runs a trainer from its last sealed checkpoint, watches the loss, seals what it saves.

Nothing is reported anywhere else. A checkpoint counts only when it is sealed. A loss that is no number ends it.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, TrainerCallback

from builder.engines import checkpoints
from builder.engines.job import Trained
from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.engines.job import Job

__all__ = ["run"]

_REPORTS = 10


def run(trainer: Any, job: Job, *, tokens: int) -> Trained:  # noqa: ANN401 - TRL has no types
    """Train from the last sealed checkpoint, or from the beginning.

    Args:
        trainer: A transformers trainer, made with :func:`builder.engines.arguments.arguments`.
        job: Settings and place.
        tokens: Tokens that the whole training puts through the model, padding left out.

    Raises:
        MachineError: The loss is no number, or the device's memory does not do.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Watch(job))
    checkpoint = checkpoints.latest(job.folder)
    if checkpoint is not None:
        job.say(f"resuming from the checkpoint of step {checkpoints.step_of(checkpoint)}")
    began = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the device's memory is too small for micro-batches of {job.split.micro_batch} rows",
            where=job.device.name,
            mend="write a smaller `micro_batch:` into .varietal/runner.yaml, or lower train.max_length; "
            f"a training with a checkpoint keeps its own: remove {job.folder} first",
        ) from error
    history = tuple(entry for entry in trainer.state.log_history if "loss" in entry)
    return Trained(
        model=trainer.model,
        history=history,
        tokens=tokens,
        resumed_from=0 if checkpoint is None else checkpoints.step_of(checkpoint),
        duration_s=time.monotonic() - began,
    )


class _Watch(TrainerCallback):  # type: ignore[misc] # transformers has no types
    """Reports, stops at a loss that is no number, and seals checkpoints."""

    def __init__(self, job: Job) -> None:
        """Keep the job."""
        self._job = job

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:  # noqa: ANN401, ARG002
        """Look at the loss of each step, before a checkpoint of that step is written."""
        if "loss" not in logs:
            return
        step, steps = state.global_step, self._job.steps
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise _diverged(name, logs[name], step, self._job.folder)
        if step == steps or step % max(1, steps // _REPORTS) == 0:
            self._job.say(f"step {step} of {steps}, loss {logs['loss']:.4f}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Seal the checkpoint just written."""
        checkpoints.seal(self._job.folder / f"checkpoint-{state.global_step}")


def _diverged(name: str, value: float, step: int, folder: Path) -> MachineError:
    good = checkpoints.latest(folder)
    last = f"the last good checkpoint is of step {checkpoints.step_of(good)}" if good else "there is no checkpoint yet"
    return MachineError(
        f"{name} is {value} at step {step}; {last}",
        where="training",
        mend="lower train.learning_rate, raise train.warmup, or look for broken rows",
    )
