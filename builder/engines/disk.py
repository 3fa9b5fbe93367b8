"""Whether the disk has room for what a training writes: counted on the model itself, before the first step."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from registry.errors import MachineError
from registry.sizes import format_size

if TYPE_CHECKING:
    from pathlib import Path

    from builder.engines.job import Job

__all__ = ["check_disk", "checkpoint_bytes"]

_MOMENTS = 2  # of AdamW, each as large as the weight and of its dtype
_BEST = 2  # copies of the best weights while a better one is written
_STATE_BYTES = 1 << 16  # of random generators and scheduler
_ENTRY_BYTES = 320  # of a step in the trainer's history


def checkpoint_bytes(model: Any, *, steps: int) -> int:  # noqa: ANN401 - transformers has no types
    """Bytes of one checkpoint: the weights that it saves, the optimiser's moments, the history.

    Args:
        model: A transformers model, or PEFT's wrapper of one, of which the adapter alone is saved.
        steps: Optimiser steps of the training.
    """
    trained = _trained_bytes(model)
    adapters = len(getattr(model, "peft_config", {}))  # DPO's frozen copy of one is saved too
    saved: int = trained * adapters
    if not adapters:
        saved = sum(one.numel() * one.element_size() for one in (*model.parameters(), *model.buffers()))
    return saved + _MOMENTS * trained + _STATE_BYTES + _ENTRY_BYTES * steps


def check_disk(model: Any, job: Job) -> None:  # noqa: ANN401 - transformers has no types
    """Refuse a training whose checkpoints and artifact the disk cannot hold; what lies there already counts as room.

    Raises:
        MachineError: There is less room than that.
    """
    each = checkpoint_bytes(model, steps=job.steps)
    kept = min(2, -(-job.steps // job.checkpoint_steps)) if job.steps > job.checkpoint_steps else 0
    best = _BEST * _trained_bytes(model) if getattr(job.training, "keep", "last") == "best" else 0
    needed = kept * each + best + job.artifact_bytes
    free = shutil.disk_usage(job.folder).free
    if free + _size_bytes(job.folder) >= needed:
        return
    raise MachineError(
        f"{format_size(free)} are free, the training may need {format_size(needed)}: {kept} checkpoints of "
        f"{format_size(each)}, and the artifact of {format_size(job.artifact_bytes)}",
        where=str(job.folder),
        mend="make room (`dvc gc --workspace` removes what no pipeline names), then run again; with a "
        "`checkpoint_steps:` of more steps than the training has, in .varietal/runner.yaml, none is written",
    )


def _trained_bytes(model: Any) -> int:  # noqa: ANN401 - transformers has no types
    return sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
