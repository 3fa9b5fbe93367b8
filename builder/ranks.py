"""How many processes share a training, and what each of them has of the machine: rules on values. No torch.

A rank is one of these processes. All do the same on rows of their own, and the first alone talks and writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from registry.counted import counted
from registry.errors import InvalidError, MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.engines.schedule import Split
    from builder.runner import Runner

__all__ = [
    "MEETING",
    "RANKS_FOLDER",
    "RankEnd",
    "Ranks",
    "Sharding",
    "can_share",
    "check_kept",
    "choose_ranks",
    "rank_environment",
]

MEETING: Final = "VARIETAL_MEETING"
"""Variable with the file by which the ranks of one training find each other; absent where there is one process."""

RANKS_FOLDER: Final = "ranks"
"""Folder, in that of the checkpoints, of what the ranks have between them; it goes when the training is done."""

Sharding: TypeAlias = Literal["none", "fsdp2"]
"""``none``: each rank has the whole model; ``fsdp2``: each has its part of every weight, gradient and moment."""


class RankEnd(BaseException):
    """The part of a rank that is not the first ends here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """The processes of one training.

    Attributes:
        count: How many.
        sharding: Whether each of them holds all of the model.
        threads: CPU threads of each.
        devices: A GPU for each, as ``CUDA_VISIBLE_DEVICES`` says it; empty on the processor.
    """

    count: int
    sharding: Sharding
    threads: int
    devices: tuple[str, ...]


def can_share(settings: Any, *, goes_on: bool) -> bool:  # noqa: ANN401 - the table of any training stage
    """Whether ranks can hold parts of every weight: of whole models, and under a plain new LoRA, as tests show.

    Args:
        settings: A training stage's table of the manifest.
        goes_on: Whether it starts from an adapter, and trains that.
    """
    adapter = getattr(settings, "adapter", None)
    if adapter is None:
        return not goes_on
    return (
        adapter.type == "lora"
        and adapter.base == "stored"
        and adapter.bias == "none"
        and not (adapter.dora or adapter.changes_base)
    )


def check_kept(training: Any, sharding: Sharding) -> None:  # noqa: ANN401 - the `train` table of any training stage
    """Refuse to keep the best weights where no process has all of them.

    Args:
        training: The stage's ``train`` table.
        sharding: Whether each process holds all of the model.

    Raises:
        InvalidError: They would have to be kept in parts.
    """
    if getattr(training, "keep", "last") == "best" and sharding != "none":
        raise InvalidError(
            "one process would keep the best weights, and each has a part of the model only",
            where="train.keep",
            mend="write `keep: last`, or take `sharding` out of .varietal/runner.yaml",
        )


def choose_ranks(
    runner: Runner, *, kept: Split | None, devices: Sequence[str], cores: int, shares: bool = True
) -> Ranks | None:
    """The processes that a training takes; ``None`` for this one alone.

    A training that has come as far as a checkpoint keeps those that it began with: its bytes depend on their number.

    Args:
        runner: Settings of the machine.
        kept: The split of a training that is resumed.
        devices: GPUs that this stage may use.
        cores: Processors that it may use.
        shares: Whether its weights can be had in parts; on processors they never are.

    Raises:
        MachineError: There are fewer GPUs than processes.
    """
    wanted: Sharding = runner.sharding if shares and devices else "none"
    count, sharding = (runner.processes, wanted) if kept is None else (kept.processes, kept.sharding)
    if count == 1:
        return None
    if devices and len(devices) < count:
        raise MachineError(
            f"the training {'began with' if kept else 'is to have'} {count} processes, each with a GPU of its own, "
            f"and may use {counted(len(devices), 'GPU')}",
            where=".varietal/work" if kept else ".varietal/runner.yaml: processes",
            mend=f"resume it where there are {count}; or remove its folder in .varietal/work to begin anew with fewer"
            if kept
            else f"write `processes: {len(devices)}`, or let the stage see more of them",
        )
    threads = kept.threads if kept else runner.threads or max(1, cores // count)
    return Ranks(count=count, sharding=sharding, threads=threads, devices=tuple(devices[:count]))


def rank_environment(
    own: Mapping[str, str], ranks: Ranks, number: int, *, meeting: str, loopback: str
) -> dict[str, str]:
    """The environment of a rank: the names that torch and accelerate read.

    Each rank sees its own GPU alone, so that `cuda` is that one in all code.

    Args:
        own: Environment of this process.
        ranks: The processes.
        number: Which of them, from 0.
        meeting: File by which they find each other.
        loopback: Network interface of this machine that nobody else can reach.
    """
    names = {
        MEETING: meeting,
        "RANK": str(number),
        "WORLD_SIZE": str(ranks.count),
        # As on a machine of its own: the first, and only, of the devices that it sees.
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",  # which accelerate asks for; they meet by the file
        "OMP_NUM_THREADS": str(ranks.threads),
        "MKL_NUM_THREADS": str(ranks.threads),
    }
    if ranks.devices:
        names["CUDA_VISIBLE_DEVICES"] = ranks.devices[number]
    sockets = dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), loopback) if loopback else {}
    return {**sockets, **own, **names}
