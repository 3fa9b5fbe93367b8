"""Trainings of several processes: what the tests and their child processes share."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.call import call
from tests.integration import training

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.stage import Context, Outcome

STEPS = 8


def ranked(
    kind: str, base: Path, data: Path, folder: Path, processes: int, *, stage: object = None, **runner: int | str
) -> Context[Any]:
    """A training on the processor, a checkpoint every other step; what several processes, or one, do alike."""
    settings = stage or training.sft_stage(training.lora(dropout=0.0), steps=STEPS, batch=8, learning_rate=1e-3)
    rows = {"sft": "messages", "pretrain": "text"}.get(kind, "preference")
    inputs = [training.data_input(data / f"{rows}.jsonl")]
    if kind != "pretrain":
        inputs.insert(0, training.model_input("from", base))
    machine: dict[str, int | str] = {"threads": 1, "device": "cpu", "checkpoint_steps": 2, "micro_batch": 2}
    machine |= runner
    return training.context(settings, inputs, folder, processes=processes, **machine)


def train(kind: str, context: Context[Any], say: Callable[[str], None] | None = None) -> Outcome:
    """Run it, as `varietal run` does."""
    return call(kind, replace(context, say=say) if say else context, where="v:stage")


def ranks_of(folder: Path) -> dict[int, int]:
    """Processes that are ranks of a training in a folder, by the number of the rank."""
    found: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"builder.rank" not in (place / "cmdline").read_bytes().split(b"\0"):
                continue
            pairs = (one.partition(b"=") for one in (place / "environ").read_bytes().split(b"\0"))
            own = {name: value for name, _, value in pairs}
            if own.get(b"VARIETAL_MEETING", b"").startswith(os.fsencode(folder)):
                found[int(own[b"RANK"])] = int(place.name)
    return found


def at(step: int, act: Callable[[], None]) -> Callable[[str], None]:
    """Does something once, when a step is told."""
    done: list[str] = []

    def say(line: str) -> None:
        if line.startswith(f"step {step} ") and not done:
            done.append(line)
            act()

    return say


def main(kind: str, base: Path, data: Path, folder: Path, processes: int) -> None:
    """Child process: die in the middle of a training, as the one that started the ranks."""
    context = ranked(kind, base, data, folder, processes=processes)
    train(kind, context, at(5, lambda: os.kill(os.getpid(), signal.SIGKILL)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
