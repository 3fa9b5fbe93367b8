"""Runs a trainer from its last sealed checkpoint to its end, or to the end of the step in which it was asked to end.

A checkpoint counts only when it is sealed. What is wrong with a training itself is an error that advises; memory that
does not do passes, for whoever can try a smaller micro-batch.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback

from builder.engines import checkpoints
from builder.engines.adapter_training import prepare_adapter
from builder.engines.disk import check_disk
from builder.engines.evaluation import measured_losses
from builder.engines.job import Trained
from builder.engines.levers import levers
from builder.engines.ranks import agreed, is_first, part
from builder.engines.sharded import prepare_sharding
from builder.engines.signals import listening
from builder.engines.watch import Watch, last_good
from builder.environment import device_memory_mib
from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.engines.evaluation import Measured
    from builder.engines.job import Job
    from builder.engines.signals import Asked

__all__ = ["run"]


def run(
    trainer: Any,  # noqa: ANN401
    job: Job,
    *,
    tokens: int | Sequence[int],
    rows: Sequence[Sequence[int]] = (),
    measured: Measured | None = None,
) -> Trained:
    """Train from the last sealed checkpoint, or from the beginning.

    Args:
        trainer: A transformers trainer, made with :func:`builder.engines.arguments.arguments`.
        job: Settings and place.
        tokens: Tokens that the whole training puts through the model, padding left out; or those of each visit.
        rows: Numbers of the data's rows in each visit, in the order of training, for the message on a broken batch.
        measured: Watches the loss on held-out rows, where there are some.

    Raises:
        MachineError: The loss is no number, the process was asked to end, the disk is too small for checkpoints and
            artifact, or the device's memory does not do for a single row.
        torch.OutOfMemoryError: It does not do for this micro-batch.
        KeyboardInterrupt: The process was asked to end after the last step, or twice.
    """
    trainer.remove_callback(PrinterCallback)
    prepare_adapter(trainer, job)  # before the callback that seals checkpoints
    checkpoint = agreed(checkpoints.latest(job.folder) if is_first() else None)
    began_at = 0 if checkpoint is None else checkpoints.step_of(checkpoint)
    check_disk(trainer.model, job)
    if checkpoint is not None:
        job.say(f"resuming from the checkpoint of step {began_at}")
    prepare_sharding(trainer, job)
    began = time.monotonic()
    with listening() as asked:
        watch = Watch(job, asked, tokens=tokens if isinstance(tokens, int) else sum(tokens), rows=rows)
        trainer.add_callback(watch)
        if measured is not None:  # after the one that seals checkpoints
            trainer.add_callback(measured)
        try:
            with levers(trainer.model, job):
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except torch.OutOfMemoryError as error:
            if job.split.micro_batch > 1:
                raise
            raise _too_large(job) from error
    if watch.stopped:
        raise _ended(job, asked, trainer.state.global_step)
    if asked.number:  # after the last step: what is left to do is not worth a checkpoint of its own
        raise KeyboardInterrupt
    if job.split.sharding == "none":  # else all ranks have a part of what is written
        part()
    losses = measured_losses(trainer.state.log_history)
    return Trained(
        model=trainer.model,
        history=tuple(entry for entry in trainer.state.log_history if "loss" in entry),
        tokens=tokens if isinstance(tokens, int) else sum(tokens[: trainer.state.global_step * job.training.batch]),
        resumed_from=began_at,
        duration_s=time.monotonic() - began,
        measured=tuple(losses),
        memory_mib=device_memory_mib(),
        kept_step=measured.restore(trainer.model, losses) if measured is not None else 0,
    )


def _ended(job: Job, asked: Asked, step: int) -> MachineError:
    return MachineError(
        f"ended by {asked.name} after step {step} of {job.steps}; {last_good(job)}",
        where="training",
        mend="run it again: it goes on from its last checkpoint, and ends with the same bytes",
    )


def _too_large(job: Job) -> MachineError:
    return MachineError(
        f"the device's memory is too small for a single row at a time{f': {job.memory}' if job.memory else ''}",
        where=job.device.name,
        mend=job.smaller or "lower train.max_length, train an adapter, or use a card with more memory",
    )
