"""Trainings that are ended from outside: a child process that says how far it is, and waits there for its signal."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import MachineError
from tests.integration import training

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.stage import Context, Outcome

__all__ = ["PAUSED", "main"]

PAUSED = "step 3 of"
"""What is said when the child waits for its signal."""


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    if line.startswith(PAUSED):
        time.sleep(1)  # whoever reads has time to send a signal, which does not end the sleep


def main(base: Path, data: Path, folder: Path, kinds: list[str]) -> None:
    """Train one after the other until each is ended, and say with which error."""
    from builder.stages.dpo import dpo  # noqa: PLC0415 - the child's own import
    from builder.stages.sft import sft  # noqa: PLC0415

    functions: dict[str, Callable[[Context[Any]], Outcome]] = {"sft": sft, "dpo": dpo}
    for kind in kinds:
        doomed = training.resumable(kind, base, data, folder / kind)
        try:
            functions[kind](replace(doomed, say=_say))
        except MachineError as error:
            _say(f"{error.exit_code} {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
