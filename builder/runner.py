"""The Runner value: what belongs to this machine, from ``.varietal/runner.yaml``; never part of an action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from registry.errors import InvalidError
from registry.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from registry.canonical import JSON

__all__ = ["RUNNER_FILE", "Runner", "read_runner"]

RUNNER_FILE = ".varietal/runner.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """Settings of one machine.

    Attributes:
        micro_batch: Rows at once on one device; 0 lets the stage choose.
        checkpoint_steps: Optimiser steps between two checkpoints of a training.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; 0 takes all cores.
    """

    micro_batch: int = 0
    checkpoint_steps: int = 50
    device: str = "auto"
    threads: int = 0


def read_runner(root: Path) -> Runner:
    """Read the machine's settings; without the file, the defaults hold.

    Raises:
        InvalidError: The file has an unknown key or a value of the wrong type.
    """
    from registry import yaml12  # noqa: PLC0415 - keeps PyYAML off the path of verbs that need no runner

    path = root / RUNNER_FILE
    if not path.exists():
        return Runner()
    document = yaml12.load(path.read_text(encoding="utf-8"), where=RUNNER_FILE)
    given = cast("dict[str, JSON]", document.value or {})
    defaults = Runner()
    known: dict[str, JSON] = {name: getattr(defaults, name) for name in Runner.__dataclass_fields__}
    if unknown := sorted(set(given) - set(known)):
        raise InvalidError(
            f"unknown key {', '.join(unknown)}", where=RUNNER_FILE, mend=f"known keys: {', '.join(sorted(known))}"
        )
    table = Table(known | given, RUNNER_FILE)
    runner = Runner(
        micro_batch=table.count("micro_batch"),
        checkpoint_steps=table.count("checkpoint_steps"),
        device=table.choice("device", ("auto", "cpu", "cuda")),
        threads=table.count("threads"),
    )
    if runner.checkpoint_steps == 0:
        raise InvalidError("checkpoint_steps: expected at least 1, got 0", where=RUNNER_FILE, mend="write 1 or more")
    return runner
