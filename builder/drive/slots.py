"""What each of the jobs of a build gets of the machine: a device, and its share of the processors."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.runner import Runner

__all__ = ["Slot", "find_devices", "make_slots"]

_NVIDIA_SMI_S = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """The part of a machine that one job has.

    Attributes:
        device: GPU, as ``CUDA_VISIBLE_DEVICES`` says it; empty on a machine without.
        cores: Processors; empty for all.
    """

    device: str = ""
    cores: tuple[int, ...] = ()


def find_devices(runner: Runner, own: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that a build may use: those of the runner's settings, of the environment, or all that there are.

    Args:
        runner: Settings of this machine.
        own: Environment of the build.
    """
    if runner.device == "cpu":
        return ()
    if runner.devices:
        return runner.devices
    visible = own.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(one.strip() for one in visible.split(",") if one.strip() and one.strip() != "-1")
    return _all_devices()


def make_slots(jobs: int, devices: Sequence[str], *, cores: Sequence[int], threads: int) -> tuple[Slot, ...]:
    """Share a machine among jobs.

    Args:
        jobs: How many; 0 for one a device, or one on a machine without.
        devices: GPUs; several jobs share one where there are fewer.
        cores: Processors that this process may use.
        threads: CPU threads by the runner's settings; where they say a number, nothing is shared out.
    """
    count = jobs or len(devices) or 1
    shares = [()] * count if threads or count == 1 else _shares(cores, count)
    return tuple(
        Slot(device=devices[number % len(devices)] if devices else "", cores=share)
        for number, share in enumerate(shares)
    )


def _shares(cores: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Neighbouring processors to the same job; where there are more jobs than processors, they take turns."""
    size = max(1, len(cores) // count)
    starts = ((number * size) % max(1, len(cores) - size + 1) for number in range(count))
    return [tuple(cores[start : start + size]) for start in starts]


def _all_devices() -> tuple[str, ...]:
    """By the driver's own tool, so that nothing of torch is loaded; none where it is not there or has none."""
    try:
        said = subprocess.run(
            ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader"),
            capture_output=True,
            text=True,
            check=True,
            timeout=_NVIDIA_SMI_S,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in said.stdout.splitlines() if line.strip().isdecimal())
