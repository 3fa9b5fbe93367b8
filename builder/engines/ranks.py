"""A rank among the others of its training: where they meet, what they agree on, where their ways part."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from builder.ranks import MEETING, RANKS_FOLDER, RankEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.environment import Device

__all__ = ["agreed", "count", "is_first", "join", "part", "shared", "wait_for_all", "whole"]

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE = timedelta(hours=1)  # a rank that is lost ends the others at once; this is for one that hangs


def join(device: Device) -> None:
    """Meet the other ranks; nothing where this process is the only one.

    Args:
        device: Where this rank computes.
    """
    meeting = os.environ.get(MEETING)
    if meeting is None:
        return
    import torch  # noqa: PLC0415 - after the process was prepared
    import torch.distributed as ranks  # noqa: PLC0415

    if ranks.is_initialized():
        return
    on_gpu = device.kind == "cuda"
    ranks.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "cpu:gloo",
        init_method=f"file://{meeting}",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_PATIENCE,
        device_id=torch.device("cuda", torch.cuda.current_device()) if on_gpu else None,
    )


def count() -> int:
    """How many ranks there are."""
    if not _are_several():
        return 1
    import torch.distributed as ranks  # noqa: PLC0415

    return ranks.get_world_size()


def is_first() -> bool:
    """Whether this is the rank that talks and writes; so is a process alone."""
    if not _are_several():
        return True
    import torch.distributed as ranks  # noqa: PLC0415

    return ranks.get_rank() == 0


def agreed(value: T) -> T:
    """What the first rank has, on all of them."""
    if not _are_several():
        return value
    import torch  # noqa: PLC0415
    import torch.distributed as ranks  # noqa: PLC0415

    values = [value]
    ranks.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def wait_for_all() -> None:
    """Wait until every rank has come here; over the processors, so that no GPU is waited for."""
    if not _are_several():
        return
    import torch  # noqa: PLC0415
    import torch.distributed as ranks  # noqa: PLC0415

    ranks.all_reduce(torch.ones(1))


def shared(rows: Any, folder: Path) -> Any:  # noqa: ANN401 - datasets has no types
    """The same rows, from files that all ranks see: what one works out and keeps beside them, the others find.

    Args:
        rows: A data set in memory.
        folder: Folder of the checkpoints.
    """
    if not _are_several():
        return rows
    from datasets import load_from_disk  # noqa: PLC0415 - seconds

    place = folder / RANKS_FOLDER / "rows"
    if is_first():
        shutil.rmtree(place, ignore_errors=True)
        rows.save_to_disk(str(place))
    wait_for_all()
    return load_from_disk(str(place))


def spread(items: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """The result of each item, on all ranks; each rank works on its share of them.

    Args:
        items: The same ones on every rank.
        work: What is done with one; the result is a plain value.
    """
    if not _are_several():
        return [work(item) for item in items]
    import torch.distributed as ranks  # noqa: PLC0415

    mine = [work(item) for item in items[ranks.get_rank() :: count()]]
    shares: list[list[R]] = [[] for _ in range(count())]
    ranks.all_gather_object(shares, mine)
    return [shares[place % count()][place // count()] for place in range(len(items))]


def whole(tensor: Any) -> Any:  # noqa: ANN401 - torch's sharded tensor has no type of its own before it is imported
    """A tensor as it is; one that the ranks have in parts, on every rank as a whole. All of them have to ask."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def part() -> None:
    """The common work is done: the first rank goes on alone.

    Raises:
        RankEnd: This is another rank.
    """
    if not _are_several():
        return
    import torch.distributed as ranks  # noqa: PLC0415

    first = is_first()
    wait_for_all()
    with suppress(RuntimeError):  # what the others close meanwhile is closed for this one too
        ranks.destroy_process_group()
    if not first:
        raise RankEnd


def _are_several() -> bool:
    if MEETING not in os.environ:
        return False
    import torch.distributed as ranks  # noqa: PLC0415

    return ranks.is_available() and ranks.is_initialized()
