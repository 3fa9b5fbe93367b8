"""The Runner value: what belongs to this machine, from ``.varietal/runner.yaml``; never part of an action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from builder.shapes import Number, Reading, Text
from builder.tables import Key, read
from builder.trackers import Tracker  # noqa: TC001 - the shapes are made from the fields' types
from registry import yaml12
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RUNNER_FILE", "Compiling", "Runner", "read_runner"]

RUNNER_FILE = ".varietal/runner.yaml"

Compiling: TypeAlias = Literal["auto", "always", "never"]
_DeviceName: TypeAlias = Annotated[
    str, Text(pattern="[0-9]+|(?:GPU|MIG)-[0-9A-Za-z/-]+", expected="a GPU, by number or by id, such as '0' or GPU-...")
]
_RemoteName: TypeAlias = Annotated[str, Text(pattern=r"(?:[A-Za-z0-9_][\w.-]*)?", expected="the name of a DVC remote")]
_FileName: TypeAlias = Annotated[
    str, Text(pattern=r"[^\x00-\x1f\x7f]*", expected="the path of a file, without control characters")
]
_VariableName: TypeAlias = Annotated[str, Text(pattern="[A-Za-z_][A-Za-z0-9_]*", expected="the name of a variable")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """Settings of one machine."""

    micro_batch: Annotated[
        int, Key("Rows at once on one device; 0 lets the stage choose."), Number(minimum=0, maximum=10**6)
    ] = 0
    checkpoint_steps: Annotated[
        int, Key("Optimiser steps between two checkpoints of a training."), Number(minimum=1, maximum=10**9)
    ] = 50
    processes: Annotated[
        int,
        Key("Processes that share one training, each with a GPU of its own where there are any."),
        Number(minimum=1, maximum=1024),
    ] = 1
    sharding: Annotated[
        Literal["none", "fsdp2"],
        Key("With several processes: `none` gives each the whole model, `fsdp2` a part of every weight."),
    ] = "none"
    device: Annotated[Literal["auto", "cpu", "cuda"], Key("Where to compute.")] = "auto"
    compile: Annotated[
        Compiling,
        Key("Whether a training on a GPU compiles its layers; `auto`: where its steps are enough to pay for it."),
    ] = "auto"
    threads: Annotated[int, Key("CPU threads; 0 takes all cores."), Number(minimum=0, maximum=4096)] = 0
    jobs: Annotated[
        int, Key("Stages that a build runs at once; 0 takes one a GPU, or one."), Number(minimum=0, maximum=1024)
    ] = 0
    devices: Annotated[tuple[_DeviceName, ...], Key("GPUs that a build hands out; none written: all of them.")] = ()
    push: Annotated[_RemoteName, Key("DVC remote that a build sends bytes to as stages end; empty for none.")] = ""
    progress_key: Annotated[
        _FileName, Key("SSH key that signs a note for each stage whose bytes a build has sent; empty for no notes.")
    ] = ""
    environment: Annotated[
        tuple[_VariableName, ...], Key("Further variables that a build lets its stages see, such as a token.")
    ] = ()
    card_memory_gib: Annotated[
        float,
        Key("Memory of one GPU, GiB, that a plan is held against; 0: not known."),
        Number(minimum=0, maximum=4096),
    ] = 0.0
    reward_s: Annotated[
        float, Key("Seconds that one call of a reward function may take."), Number(above=0, maximum=86400)
    ] = 60.0
    report_to: Annotated[tuple[Tracker, ...], Key("Trackers that a training reports to, beside its own lines.")] = ()
    grace_s: Annotated[
        float, Key("Seconds that a stage is given to end before it is killed."), Number(minimum=0, maximum=86400)
    ] = 30.0


def read_runner(root: Path) -> Runner:
    """Read the machine's settings; without the file, the defaults hold.

    Raises:
        InvalidError: The file's faults, all of them.
    """
    path = root / RUNNER_FILE
    if not path.exists():
        return Runner()
    document = yaml12.load(path.read_bytes(), RUNNER_FILE)
    reading = Reading(file=RUNNER_FILE, lines=document.lines)
    runner = read(Runner, {} if document.value is None else document.value, reading)
    if reading.faults or runner is None:
        raise InvalidError.from_faults(reading.faults)
    return runner
