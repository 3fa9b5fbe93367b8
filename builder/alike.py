"""Whether this machine is like the one that a record was made on, so that the same training gives the same bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from builder.environment import COMPILED_LAYERS, environment, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.runner import Runner
    from registry.record import Record

__all__ = ["differences", "runner_like", "unlike"]

_APART: Final = frozenset({"threads", "varietal"})  # one is set as it was, the other is told by recipes
_NO_CHECKPOINTS: Final = 10**9


def runner_like(record: Record, runner: Runner, *, on_cpu: bool) -> Runner:
    """The machine's settings, with those that decide bytes as the record says them.

    Args:
        record: A training.
        runner: The machine's own.
        on_cpu: Whether the record's device is this machine's processor.
    """
    return replace(
        runner,
        micro_batch=record.micro_batch,
        threads=int(record.environment.get("threads", "0")),
        device="cpu" if on_cpu else "cuda",
        compile="always" if COMPILED_LAYERS in record.depends_on else "never",
        checkpoint_steps=_NO_CHECKPOINTS,
        processes=1,
        report_to=(),  # it is no training of its own
    )


def unlike(record: Record, runner: Runner) -> str:
    """What is otherwise here than where a training was computed, in words; empty where nothing is.

    Args:
        record: The training.
        runner: From :func:`runner_like`.

    Raises:
        MachineError: The runner asks for a GPU, and there is none.
    """
    device = prepare(runner, threads=runner.threads)
    return differences(record, device.name, environment())


def differences(record: Record, device: str, versions: Mapping[str, str]) -> str:
    """What of a record's device and environment is otherwise, in words.

    Args:
        record: The training.
        device: Name of the device here.
        versions: Environment here.
    """
    named = {name: value for name, value in record.environment.items() if name not in _APART}
    odd = [(name, value, versions.get(name, "none")) for name, value in sorted(named.items())]
    odd.insert(0, ("device", record.device, device))
    return ", ".join(f"{name} {there}, here {here}" for name, there, here in odd if there != here)
