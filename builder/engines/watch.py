"""What happens between two steps of a training: progress, a loss that is no number, an end asked for, seals."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from builder.engines import checkpoints
from builder.engines.progress import Pace
from builder.engines.ranks import agreed, is_first, wait_for_all
from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.engines.job import Job
    from builder.engines.signals import Asked

__all__ = ["Watch", "last_good", "spell_places", "spell_rows"]

_MOST_ROWS = 64


class Watch(TrainerCallback):  # type: ignore[misc] # transformers has no types
    """Reports, stops at a loss that is no number, ends where that was asked for, and seals checkpoints."""

    def __init__(self, job: Job, asked: Asked, *, tokens: int, rows: Sequence[Sequence[int]]) -> None:
        """Keep what is needed.

        Args:
            job: Settings and place.
            asked: Tells whether the process shall end.
            tokens: Tokens of the whole training.
            rows: Numbers of the data's rows in each visit, in the order of training; empty where nobody knows.
        """
        self.stopped = False
        self._job, self._asked, self._rows = job, asked, rows
        self._pace = Pace(steps=job.steps, step_tokens=tokens / job.steps)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Begin to count at the step of the checkpoint."""
        self._pace.began = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        """Save and end where that was asked for; make room for a checkpoint before it is written."""
        self._heed(args, state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:  # noqa: ANN401
        """Look at the loss of each step, before a checkpoint of that step is written."""
        if "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise self._diverged(name, logs[name], state.global_step)
        line = self._pace.line(state.global_step, logs["loss"], time.monotonic())
        if line is not None and state.is_world_process_zero:
            self._job.say(line)
        self._heed(args, state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        """Look again, since a measurement takes its time."""
        self._heed(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Seal the checkpoint just written, when every rank has written its part of it."""
        wait_for_all()
        if state.is_world_process_zero:
            checkpoints.seal(self._job.folder / f"checkpoint-{state.global_step}")

    def _heed(self, args: Any, state: Any, control: Any) -> None:  # noqa: ANN401 - transformers has no types
        """Once the step is done and once its loss is known good: who asks in between need not wait for another step."""
        if _anywhere(self._asked.number != 0, args.device) and state.global_step % self._job.round_steps == 0:
            self.stopped = control.should_save = control.should_training_stop = True
        if control.should_save and state.is_world_process_zero:
            checkpoints.keep_last(self._job.folder)

    def _diverged(self, name: str, value: float, step: int) -> MachineError:
        job, batch = self._job, self._job.training.batch
        numbers = [row for visit in self._rows[(step - 1) * batch : step * batch] for row in visit]
        rows = spell_places(numbers, job.places()) if numbers else ""
        return MachineError(
            f"{name} is {value} at step {step}{f', on {rows}' if rows else ''}; {last_good(job)}",
            where=job.data or "training",
            mend="lower train.learning_rate, raise train.warmup, or look for broken rows",
        )


def last_good(job: Job) -> str:
    """The newest whole checkpoint of a training, in words; every rank asks at once, the first one looks.

    Raises:
        OSError: A folder cannot be read or removed.
    """
    good = agreed(checkpoints.latest(job.folder) if is_first() else None)
    return f"the last good checkpoint is of step {checkpoints.step_of(good)}" if good else "there is no checkpoint yet"


def spell_places(numbers: Iterable[int], places: Sequence[str]) -> str:
    """Rows of the data, file by file, such as ``rows 3-5, 9 of data/tickets.jsonl``.

    Args:
        numbers: Which rows, from 1.
        places: Where each row stands, as ``file, row 7``; empty where nobody knows.
    """
    files: dict[str, list[int]] = {}
    for number in sorted(set(numbers)):
        file, _, row = places[number - 1].rpartition(", row ") if places else ("", "", str(number))
        files.setdefault(file, []).append(int(row))
    return "; ".join(f"rows {spell_rows(rows)}{f' of {file}' if file else ''}" for file, rows in files.items())


def spell_rows(rows: Iterable[int]) -> str:
    """Numbers of rows as ranges, such as ``3-5, 9``; the first of them where they are many."""
    numbers = sorted(set(rows))
    spans: list[list[int]] = []
    for number in numbers[:_MOST_ROWS]:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    spelt = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    left = len(numbers) - _MOST_ROWS
    return f"{spelt} and {left} more" if left > 0 else spelt


def _anywhere(here: bool, device: Any) -> bool:  # noqa: ANN401, FBT001 - torch has no types here
    """Whether it is so in any process of the training: all of them have to end at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return here
    found = torch.tensor([here], dtype=torch.int32, device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return bool(found.item())
