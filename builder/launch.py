"""Runs a training as several processes: starts its ranks, hears them, and ends them all when one is lost.

The process that DVC or a build called starts the ranks and computes nothing itself. Each rank is under a supervisor of
its own, which ends it at once when this process ends, however that happens. Signals are passed on, so that a training
saves before it ends. What a rank gives up with is what the stage gives up with.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Final, cast

from builder.drive.slots import find_devices
from builder.engines.checkpoints import any_checkpoint
from builder.engines.schedule import kept_split, share_of
from builder.rank_member import MEETING_FILE, started
from builder.rank_messages import Ended, Failed, Started, Talk, Task
from builder.ranks import RANKS_FOLDER, can_share, check_kept, choose_ranks
from registry.counted import counted
from registry.errors import ConflictError, MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path
    from types import FrameType

    from builder.kinds import Kind
    from builder.rank_member import Member
    from builder.rank_messages import Message
    from builder.ranks import Ranks
    from builder.stage import Context, Outcome

__all__ = ["launch", "together"]

_LAST_WORDS_S: Final = 2.0  # how long the others may say what they know, once one is lost
_LEAVING_S: Final = 20.0
_OLD_RANKS_S: Final = 30.0
_SIGNALLED: Final = 128
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def together(name: str, kind: Kind, context: Context[Any], *, where: str) -> Callable[[Context[Any]], Outcome] | None:
    """What runs a stage as several processes; ``None`` where it is to be this one alone.

    Args:
        name: Stage kind, by name.
        kind: The same.
        context: All that its function may use.
        where: The stage, for errors.

    Raises:
        InvalidError: They cannot share the batch evenly.
        MachineError: There are fewer GPUs than processes.
    """
    if not kind.ranks:
        return None
    split = kept_split(context.work)
    kept = split if split is not None and (split.halved or any_checkpoint(context.work)) else None
    if context.runner.processes == 1 and (kept is None or kept.processes == 1):
        return None  # without a look at the GPUs
    ranks = choose_ranks(
        context.runner,
        kept=kept,
        devices=_devices(context),
        cores=len(os.sched_getaffinity(0)),
        shares=kind.sharded and can_share(context.settings, goes_on=_goes_on(context)),
    )
    if kept is not None and kept.processes != context.runner.processes:
        context.say(f"{where}: goes on with {counted(kept.processes, 'process', 'processes')}, as it began")
    if ranks is None:
        return None
    check_kept(context.settings.train, ranks.sharding)
    if kept is None:  # refused before anything heavy is loaded
        share_of(context.settings.train.batch, devices=ranks.count, wanted=context.runner.micro_batch)
    if kept is None and ranks.sharding != context.runner.sharding:
        context.say(f"{where}: its weights are not to be had in parts, so each process holds the whole model")
    return partial(launch, name, ranks, where)


def launch(kind: str, ranks: Ranks, where: str, context: Context[Any]) -> Outcome:
    """Run a stage as several processes.

    Args:
        kind: Stage kind.
        ranks: The processes.
        where: The stage, for errors.
        context: All that its function may use.

    Returns:
        What the first rank made.

    Raises:
        Error: What a rank raised.
        MachineError: A rank was killed, or failed in a way that nobody foresaw.
        ConflictError: Ranks of an earlier try do not end.
        RuntimeError: The device's memory does not do for this micro-batch.
        KeyboardInterrupt: Somebody did not want to wait for the end of a step.
    """
    folder = context.work / RANKS_FOLDER
    folder.mkdir(exist_ok=True)
    task = Task(
        kind=kind,
        where=where,
        settings=context.settings,
        inputs=context.inputs,
        work=context.work,
        out=context.out,
        root=context.root,
        runner=replace(context.runner, processes=ranks.count, sharding=ranks.sharding, threads=ranks.threads),
    )
    with ExitStack() as stack:
        lock = stack.enter_context(_only(folder))
        (folder / MEETING_FILE).unlink(missing_ok=True)
        members = [stack.enter_context(started(task, ranks, number, lock)) for number in range(ranks.count)]
        heard = stack.enter_context(_passed_on(members))
        for member in members:
            member.tell()
        _hear(members, context.say)
    outcome = _judge(members, heard)
    shutil.rmtree(folder)
    return outcome


def _hear(members: Sequence[Member], say: Callable[[str], None]) -> None:
    """Hear all ranks until the last has ended.

    Where one is lost or gave up, the others have a little time for last words; where all are done, to leave.
    """
    waiting = {member.line: member for member in members}
    until_s: float | None = None
    while waiting and (until_s is None or time.monotonic() < until_s):
        left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
        for ready in wait(list(waiting), left_s):
            member = waiting[cast("Connection", ready)]
            message = _next(member.line)
            match message:
                case Started(process=process):
                    member.process = process
                case Talk(line=line):
                    say(line)
                case Ended() | Failed():
                    member.end, member.heard_s = message, time.monotonic()
                case None:
                    del waiting[member.line]
                    member.lost = member.end is None
            if member.lost or isinstance(message, Failed):
                until_s = until_s or time.monotonic() + _LAST_WORDS_S
            elif all(one.end is not None for one in members):
                until_s = until_s or time.monotonic() + _LEAVING_S


def _next(line: Connection) -> Message | None:
    """What is said next; ``None`` where nobody is left to say it."""
    try:
        return cast("Message", line.recv())
    except (EOFError, OSError):
        return None


def _judge(members: Sequence[Member], heard: Sequence[int]) -> Outcome:
    """What the stage ended with: an error of ours before a rank that is lost, and that before what followed from it."""
    failures = sorted(
        ((member, member.end) for member in members if isinstance(member.end, Failed)), key=lambda one: one[0].heard_s
    )
    for _, failed in failures:
        if failed.is_memory:
            message = f"out of memory: {failed.what}"
            raise RuntimeError(message)  # which is tried again with a smaller micro-batch
        if failed.is_interrupt:
            raise KeyboardInterrupt
        if failed.error is not None:
            raise failed.error.error()
    if heard:  # before they could do more than end by it
        raise KeyboardInterrupt
    for member in members:
        if member.lost:
            raise _lost(member, len(members))
    for member, failed in failures:
        raise MachineError(
            f"process {member.number} of {len(members)} failed: {failed.what}",
            where=member.task.where,
            mend=f"see {member.log}",
        )
    first = members[0].end
    if not isinstance(first, Ended) or first.outcome is None:
        raise _lost(members[0], len(members))
    return replace(first.outcome, environment=first.environment)


def _lost(member: Member, count: int) -> MachineError:
    code = member.code or 0
    by = signal.Signals(code - _SIGNALLED).name if code > _SIGNALLED else f"exit code {code}"
    return MachineError(
        f"process {member.number} of {count} was lost: {by}",
        where=member.task.where,
        mend=f"see {member.log}; SIGKILL is most often the system's, out of memory. Run it again: it goes on from its "
        "last checkpoint",
    )


@contextmanager
def _only(folder: Path) -> Iterator[int]:
    """Hold a lock that every rank holds too, so that ranks of a try that was killed have ended before the next starts.

    Raises:
        ConflictError: They do not end.
    """
    with (folder / "lock").open("a") as stream:
        until_s = time.monotonic() + _OLD_RANKS_S
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until_s:
                    raise ConflictError(
                        "processes of an earlier try do not end",
                        where=str(folder),
                        mend="end them (their names have `builder.rank` in them), then run again",
                    ) from error
                time.sleep(0.05)
        yield stream.fileno()


@contextmanager
def _passed_on(members: Sequence[Member]) -> Iterator[list[int]]:
    """Pass signals that ask for an end on to the ranks, which know what to do with them; the signals that came."""
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return

    def hear(number: int, frame: FrameType | None) -> None:
        del frame
        heard.append(number)
        for member in members:
            member.pass_on(number)

    kept = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in kept.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, hear)
    try:
        yield heard
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _goes_on(context: Context[Any]) -> bool:
    """Whether it starts from an adapter."""
    source = context.find("from")
    return source is not None and source.artifact is not None and source.artifact.type == "adapter"


def _devices(context: Context[Any]) -> tuple[str, ...]:
    """GPUs that this stage may use: those that a build gave it, or those of the runner."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return find_devices(replace(context.runner, devices=()) if given is not None else context.runner, os.environ)
