"""How long a training takes, how its batches split, in which order it sees the rows. Values only, no torch.

A batch is global. With N devices each takes ``batch / N`` rows of it, in micro-batches that fit its memory; gradients
are summed over micro-batches and devices before the optimiser's step. The rows of step k are the same under every
split. So a split changes rounding, and nothing else but where a loss takes its mean over the tokens of a micro-batch
or holds the rows of one against each other: `builder/stages/neighbours.py` names those losses.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from registry.canonical import encode
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.ranks import Sharding
    from builder.train_settings import Training

__all__ = [
    "Split",
    "by_length",
    "choose_split",
    "halve_split",
    "keep_split",
    "kept_split",
    "share_of",
    "steps_of",
    "visit_order",
]

_FILE = "split.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """How one optimiser step is computed; the bytes of the result depend on it, in most losses through rounding alone.

    Attributes:
        micro_batch: Rows at once on one device.
        accumulation: Micro-batches on one device in one optimiser step.
        threads: CPU threads of one operation.
        halved: Micro-batches that were tried before and found no memory, the first one first.
        processes: Devices that share the batch, one process each.
        sharding: ``none``, or ``fsdp2`` where each of them holds a part of the model.
        compiled: Whether the layers are compiled.
    """

    micro_batch: int
    accumulation: int
    threads: int
    halved: tuple[int, ...] = ()
    processes: int = 1
    sharding: Sharding = "none"
    compiled: bool = False


def steps_of(training: Training, rows: int) -> int:
    """Optimiser steps of a training; the last batch is filled up with rows of the next epoch."""
    return training.steps or max(1, math.ceil(training.epochs * rows / training.batch))


def choose_split(*, batch: int, wanted: int, fits: Callable[[int], bool], threads: int, devices: int = 1) -> Split:
    """Split a global batch.

    Args:
        batch: Rows in one optimiser step.
        wanted: Micro-batch that the runner asks for; 0 chooses the largest that fits.
        fits: Whether one device has room for so many rows at once.
        threads: CPU threads of one operation.
        devices: How many devices share the batch.

    Raises:
        InvalidError: The batch cannot be split evenly that way.
    """
    share = share_of(batch, devices=devices, wanted=wanted)
    fitting = (size for size in range(share, 0, -1) if share % size == 0 and fits(size))
    micro_batch = wanted or next(fitting, 1)
    return Split(micro_batch=micro_batch, accumulation=share // micro_batch, threads=threads, processes=devices)


def share_of(batch: int, *, devices: int, wanted: int = 0) -> int:
    """Rows of a batch that one device takes.

    Args:
        batch: Rows in one optimiser step.
        devices: How many devices share it.
        wanted: Micro-batch that the runner asks for; 0 for any.

    Raises:
        InvalidError: The batch cannot be split evenly that way.
    """
    share, rest = divmod(batch, devices)
    if rest:
        raise InvalidError(
            f"a batch of {batch} cannot be shared by {devices} devices",
            where="train.batch",
            mend=f"make it a multiple of {devices}",
        )
    if wanted and share % wanted:
        raise InvalidError(
            f"micro_batch {wanted} does not divide the {share} rows that one device takes of a batch",
            where=".varietal/runner.yaml: micro_batch",
            mend="write a divisor of it, or 0 to let the stage choose",
        )
    return share


def kept_split(work: Path) -> Split | None:
    """The split that an earlier try began with."""
    path = work / _FILE
    if not path.is_file():
        return None
    said = json.loads(path.read_bytes())
    return Split(**{**said, "halved": tuple(said.get("halved", ()))})


def keep_split(work: Path, split: Split) -> None:
    """Remember the split for a resume, before the first step."""
    part = work / f"{_FILE}.part"
    part.write_bytes(encode({**asdict(split), "halved": [*split.halved]}))
    part.rename(work / _FILE)


def halve_split(work: Path) -> Split | None:
    """The next try after one that found no memory: half the micro-batch, or near it, and the same global batch.

    Returns:
        The split that is kept from now on; ``None`` where there is nothing to halve.
    """
    split = kept_split(work)
    if split is None or split.micro_batch == 1:
        return None
    share = split.micro_batch * split.accumulation
    micro_batch = next(size for size in range(split.micro_batch // 2, 0, -1) if share % size == 0)
    smaller = replace(
        split,
        micro_batch=micro_batch,
        accumulation=share // micro_batch,
        halved=(*split.halved, split.micro_batch),
    )
    keep_split(work, smaller)
    return smaller


def visit_order(rows: int, *, visits: int, seed: int) -> list[int]:
    """Numbers of the rows in the order of training: one shuffle of all rows after another, cut at ``visits``."""
    source = random.Random(seed)  # noqa: S311 - a shuffle, nothing secret
    order: list[int] = []
    while len(order) < visits:
        epoch = list(range(rows))
        source.shuffle(epoch)
        order += epoch
    return order[:visits]


def by_length(order: Sequence[int], lengths: Sequence[int], *, batch: int) -> list[int]:
    """The same batches, with the longest rows of each first: micro-batches then hold less padding."""
    starts = range(0, len(order), batch)
    return [row for start in starts for row in sorted(order[start : start + batch], key=lambda one: -lengths[one])]
