"""The process of one rank, as the process that started it sees it: started under a supervisor, told, ended."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Final

from builder.drive.processes import start
from builder.ranks import RANKS_FOLDER, rank_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from builder.drive.processes import Running
    from builder.rank_messages import Ended, Failed, Task
    from builder.ranks import Ranks

__all__ = ["MEETING_FILE", "Member", "started"]

MEETING_FILE: Final = "meeting"
"""File, in the ranks' folder, by which they find each other."""


@dataclass(kw_only=True, slots=True)
class Member:
    """A rank, as this process sees it.

    Attributes:
        number: Which, from 0.
        task: What it is told.
        running: Its process, under its supervisor.
        line: The connection with it.
        log: All that its libraries said.
        process: Its number, once it runs.
        end: What it ended with.
        code: Exit code, once it is known.
        lost: Whether it ended, and said nothing.
        heard_s: When that was heard.
    """

    number: int
    task: Task
    running: Running
    line: Connection
    log: Path
    process: int = 0
    end: Ended | Failed | None = None
    code: int | None = None
    lost: bool = False
    heard_s: float = 0.0

    def tell(self) -> None:
        """Tell it what to do; one that has ended meanwhile is noticed later."""
        with suppress(OSError):
            self.line.send(self.task)

    def pass_on(self, number: int) -> None:
        """Give it a signal that this process got; one that does not run yet is ended."""
        if self.code is not None or self.end is not None:
            return
        if self.process:
            with suppress(ProcessLookupError):
                os.kill(self.process, number)
        else:
            self.running.kill()


@contextmanager
def started(task: Task, ranks: Ranks, number: int, lock: int) -> Iterator[Member]:
    """A rank that has been started; at the end it is ended."""
    folder = task.work / RANKS_FOLDER
    if number:  # what any but the first writes is seen by nobody
        task = replace(task, out=folder / f"out-{number}")
        shutil.rmtree(task.out, ignore_errors=True)
        task.out.mkdir()
    meeting = str((folder / MEETING_FILE).absolute())
    environment = rank_environment(os.environ, ranks, number, meeting=meeting, loopback=_loopback())
    log = folder / f"{number}.log"
    ours, theirs = Pipe()
    with ours:
        with theirs:
            running = start(
                (sys.executable, "-P", "-m", "builder.rank", str(theirs.fileno())),
                folder=Path.cwd(),
                environment=environment,
                log=log,
                grace_s=0.0,
                handed=(theirs.fileno(), lock),
            )
        member = Member(number=number, task=task, running=running, line=ours, log=log)
        try:
            yield member
        finally:
            running.kill()  # nothing to one that has ended
            member.code = running.wait()


def _loopback() -> str:
    """The interface that only this machine can reach; empty where none has its usual name."""
    names = {name for _, name in socket.if_nameindex()}
    return next((name for name in ("lo", "lo0") if name in names), "")
