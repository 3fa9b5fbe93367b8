"""One build at a time in a repository, and the end of what an earlier one left running.

``.varietal/build.lock`` is locked while a build goes on, and holds its process id and its token. A build that ends
empties it. One that finds a token there knows that the build before was killed, and looks for processes that carry
this token in their environment: a random value that only those of that build can have, so no process of anyone else is
ever ended. Their supervisors are ending them already; what is left after the grace is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from builder.drive.environment import BUILD_TOKEN
from registry.counted import counted
from registry.errors import ConflictError, MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LOCK", "end_marked", "only_build"]

LOCK = ".varietal/build.lock"
_DVC_READERS = ".dvc/tmp/rwlock"
_POLL_S = 0.2


@contextmanager
def only_build(root: Path, *, grace_s: float, say: Callable[[str], None]) -> Iterator[str]:
    """Be the one build of a repository.

    Args:
        root: Root of the repository.
        grace_s: Seconds that processes of a killed build are given.
        say: Tells the person at the terminal.

    Yields:
        The token of this build.

    Raises:
        ConflictError: Another build is running.
        MachineError: Processes of a killed build do not end.
    """
    path = root / LOCK
    path.parent.mkdir(exist_ok=True)
    with path.open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid, _ = _read(path)
            raise ConflictError(
                f"a build is running here already, as process {pid or '?'}",
                where=LOCK,
                mend="wait for it, or end it: `kill PID` lets its stages stop in order",
            ) from error
        _, left = _read(path)
        if left:
            end_marked(left, grace_s=grace_s, say=say)
            _remove_torn(root / _DVC_READERS, say)
        token = secrets.token_hex(16)
        _write(lock.fileno(), json.dumps({"pid": os.getpid(), "token": token}))
        yield token
        _write(lock.fileno(), "")


def end_marked(token: str, *, grace_s: float, say: Callable[[str], None]) -> None:
    """Wait for the end of every process of a build, and kill those that are still there after the grace.

    Args:
        token: Token of the build; with ``/`` and a stage after it, the processes of that stage alone.
        grace_s: Seconds to wait.
        say: Tells the person at the terminal.

    Raises:
        MachineError: One of them does not end.
    """
    deadline = time.monotonic() + grace_s
    found = _marked(token)
    if found:
        left = counted(len(found), "process", "processes")
        say(f"something was killed here: waiting for {left} that it left to end")
    while found and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        found = _marked(token)
    for pid in found:
        say(f"process {pid} that it left is still at work: it is killed")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + grace_s
    while found and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        found = _marked(token)
    if found:
        raise MachineError(
            f"processes that a killed build left do not end: {', '.join(map(str, found))}",
            where=LOCK,
            mend="look what holds them (a device, a network disk), end them, then build again",
        )


def _remove_torn(path: Path, say: Callable[[str], None]) -> None:
    """Remove DVC's list of who reads and writes what, where a machine that stopped left it half written.

    DVC refuses to go on with such a file; those in it are the processes of the killed build, which have ended.
    """
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        say(f"{_DVC_READERS} was left half written: it is removed")
        path.unlink()


def _read(path: Path) -> tuple[int, str]:
    """Process id and token of the build that wrote the file; nothing where it was emptied or torn."""
    try:
        value = json.loads(path.read_text(encoding="ascii"))
        return int(value["pid"]), str(value["token"])
    except (ValueError, KeyError, TypeError):
        return 0, ""


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode("ascii"), 0)
    os.fsync(descriptor)


def _marked(token: str) -> list[int]:
    """Processes of this user that carry a mark, this one left out; none where there is no /proc."""
    mark = f"{BUILD_TOKEN}={token}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            pid = int(path.parent.name)
            variables = path.read_bytes().split(b"\0")
            if pid != os.getpid() and any(one == mark or one.startswith(mark + b"/") for one in variables):
                found.append(pid)
    return found
