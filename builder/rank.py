"""The process of one rank: runs the stage's function, and says how it ended. ``python -P -m builder.rank LINE``.

``LINE`` is the number of the connection with the process that started it.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, cast

from builder.allocation import is_allocation
from builder.engines.schedule import kept_split
from builder.environment import environment
from builder.kinds import KINDS
from builder.rank_messages import Ended, Failed, Raised, Started, Talk
from builder.ranks import RankEnd
from builder.stage import Context
from registry.errors import Error, MachineError

if TYPE_CHECKING:
    from builder.rank_messages import Message, Task

__all__: list[str] = []

_MOST = 300  # characters of a message that nobody foresaw


class _Line:
    """The connection, for all threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        with self._lock:
            self._connection.send(message)

    def say(self, line: str) -> None:
        """Say a line, as the first rank."""
        self.send(Talk(line=line))


def _silent(line: str) -> None:
    """Say nothing, as the others."""


def _main(handle: int) -> int:
    with Connection(handle) as connection:
        line = _Line(connection)
        line.send(Started(process=os.getpid()))
        end = _run(cast("Task", connection.recv()), line)
        line.send(end)
    if isinstance(end, Failed):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(MachineError.exit_code)  # what waits for the other ranks would wait at the exit too
    return 0


def _run(task: Task, line: _Line) -> Ended | Failed:
    context: Context[Any] = Context(
        settings=task.settings,
        inputs=task.inputs,
        work=task.work,
        out=task.out,
        root=task.root,
        runner=task.runner,
        say=line.say if os.environ["RANK"] == "0" else _silent,
    )
    try:
        outcome = KINDS[task.kind].load()(context)
    except RankEnd:
        return Ended(outcome=None, environment={})
    except Error as error:
        return Failed(what=error.what, error=Raised.of(error))
    except KeyboardInterrupt:
        return Failed(what="interrupted", is_interrupt=True)
    except ModuleNotFoundError as error:
        missing = MachineError(
            f"{error.name} is not installed",
            where=f"stage kind {task.kind}",
            mend="install the builder: pip install 'varietal[build]'",
        )
        return Failed(what=missing.what, error=Raised.of(missing))
    except Exception as error:  # noqa: BLE001 - the process that started this one says what it was
        traceback.print_exc()
        what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:_MOST]
        return Failed(what=what, is_memory=is_allocation(error))
    split = kept_split(task.work)
    facts = {} if split is None else {"processes": str(split.processes), "accumulation": str(split.accumulation)}
    sharding = {"sharding": split.sharding} if split is not None and split.sharding != "none" else {}
    depends_on = (*outcome.depends_on, "processes") if outcome.depends_on else ()
    return Ended(outcome=replace(outcome, depends_on=depends_on), environment={**environment(), **facts, **sharding})


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1])))
