"""The loss on rows that are not learnt: measured during a training, and what follows from it.

Everything is told from the trainer's own history, which each checkpoint holds: so a resumed training stops where one
that ran through would have, and keeps the same weights. No checkpoint is written at the step at which a training stops
early, since one that was resumed there would go on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from builder.ranks import check_kept
from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from builder.engines.job import Job
    from builder.train_settings import EvaluatedTraining

__all__ = ["Measured", "best_step", "has_stalled", "interval", "measured", "measured_losses", "measuring"]

_LOSS = "eval_loss"
_TIMES = 10
_PREFIX = "best-"


def interval(training: EvaluatedTraining, steps: int) -> int:
    """Optimiser steps between two measurements; the last step is measured in any case."""
    return training.eval_steps or max(1, steps // _TIMES)


def measured(job: Job, evaluation: Sequence[object] | None) -> Measured | None:
    """What watches the measurements; ``None`` where there are no rows for any."""
    return Measured(job, cast("EvaluatedTraining", job.training)) if evaluation else None


def measuring(job: Job, evaluation: Sequence[object] | None) -> dict[str, Any]:
    """Arguments of transformers' trainer for a training that is measured; none where there are no rows for it.

    Args:
        job: Settings, of a kind that can be measured, and place.
        evaluation: The rows.

    Raises:
        InvalidError: The best weights cannot be kept where no process has all of them.
    """
    if not evaluation:
        return {}
    training = cast("EvaluatedTraining", job.training)
    check_kept(training, job.split.sharding)
    return {
        "eval_strategy": "steps",
        "eval_steps": interval(training, job.steps),
        "per_device_eval_batch_size": job.split.micro_batch,
        "prediction_loss_only": True,
    }


def measured_losses(history: Sequence[Mapping[str, float]]) -> list[tuple[int, float]]:
    """Step and loss of each measurement, from a trainer's log."""
    return [(int(entry["step"]), float(entry[_LOSS])) for entry in history if _LOSS in entry]


def best_step(losses: Sequence[tuple[int, float]]) -> int:
    """The step with the lowest loss, the first of equal ones."""
    return min(losses, key=lambda one: (one[1], one[0]))[0]


def has_stalled(losses: Sequence[tuple[int, float]], patience: int) -> bool:
    """Whether the last measurements, as many as the patience says, brought no new lowest loss; never for 0."""
    if not patience or len(losses) <= patience:
        return False
    earlier, later = losses[:-patience], losses[-patience:]
    return min(loss for _, loss in later) >= min(loss for _, loss in earlier)


class Measured(TrainerCallback):  # type: ignore[misc] # transformers has no types
    """Watches the measurements: keeps the best weights, and stops where nothing is won any more."""

    def __init__(self, job: Job, training: EvaluatedTraining) -> None:
        """Keep what is needed.

        Args:
            job: Settings and place.
            training: The stage's ``train`` table.
        """
        self.stopped_at = 0
        self._job, self._training = job, training

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Look at a measurement, which is in the history already."""
        losses = measured_losses(state.log_history)
        step, loss = losses[-1]
        if not math.isfinite(loss):
            raise MachineError(
                f"the loss on held-out rows is {loss} at step {step}",
                where="training",
                mend="lower train.learning_rate, or look for broken rows in `eval`",
            )
        if state.is_world_process_zero:
            self._job.say(f"step {step}: loss on held-out rows {loss:.4f}")
            if self._training.keep == "best" and best_step(losses) == step:
                _save(self._job.folder, step, model)
        if has_stalled(losses, self._training.early_stopping) and state.global_step < state.max_steps:
            self.stopped_at = step
            control.should_training_stop, control.should_save = True, False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Remove weights that were the best before; a resume from this checkpoint does not ask for them."""
        if state.is_world_process_zero and self._training.keep == "best":
            losses = measured_losses(state.log_history)
            kept = best_step(losses) if losses else 0
            for path in self._job.folder.glob(f"{_PREFIX}*.safetensors"):
                if path != _file(self._job.folder, kept):
                    path.unlink()

    def restore(self, model: Any, losses: Sequence[tuple[int, float]]) -> int:  # noqa: ANN401
        """Put the best weights into a model, where they are to be kept.

        Returns:
            The step whose weights the model has now; 0 where they are the last ones.
        """
        last = losses[-1][0]
        if self._training.keep != "best" or best_step(losses) == last:
            return 0
        step = best_step(losses)
        kept = load_file(_file(self._job.folder, step))
        for name, parameter in _trained(model).items():
            parameter.data.copy_(kept[name])
        return step


def _trained(model: Any) -> dict[str, Any]:  # noqa: ANN401 - transformers has no types
    """What a training changes: AdaLoRA also counts the ranks that it keeps, in parameters of its own."""
    return {name: one for name, one in model.named_parameters() if one.requires_grad or ".ranknum." in name}


def _file(folder: Path, step: int) -> Path:
    return folder / f"{_PREFIX}{step}.safetensors"


def _save(folder: Path, step: int, model: Any) -> None:  # noqa: ANN401 - transformers has no types
    """Write the trained weights by rename, so that a kill leaves no half of a file under the name."""
    part = folder / f"{_PREFIX}{step}.part"
    inner = getattr(model, "module", model)
    save_file({name: one.detach().cpu().contiguous() for name, one in _trained(inner).items()}, part)
    part.rename(_file(folder, step))
