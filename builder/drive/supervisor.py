"""Runs one command in a group of its own, and ends that group when whoever asked for it goes: a script, on its own.

``python -I -S supervisor.py LIFE GRACE_S COMMAND...``: ``LIFE`` is the number of a pipe's reading end, whose
other end the build alone holds. When an ``s`` comes through it, or its other end is closed, which the kernel does at
the build's death, the group gets SIGINT, and SIGKILL when it is still there after ``GRACE_S`` seconds. A ``k`` means
SIGKILL at once. When the command ends by itself, what it left running ends too. Only the standard library is used, so
that it starts in 30 ms.

SIGINT, since DVC waits for its stage then and leaves no lock behind, while SIGTERM ends DVC and not the stage.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

__all__: list[str] = []

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>
_SIGNALLED = 128  # what a shell adds to the number of the signal that ended a command


def main(life: int, grace_s: float, command: list[str]) -> int:
    """Run the command to its end, or to the end of the pipe.

    Returns:
        Exit code of the command, as a shell would say it.
    """
    _adopt_orphans()
    os.set_inheritable(life, False)  # noqa: FBT003 - its only parameter
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for each in (signal.SIGINT, signal.SIGHUP):  # they may have come ignored, and the command would ignore them too
        signal.signal(each, signal.SIG_DFL)
    stop = [False]
    signal.signal(signal.SIGTERM, lambda *_: stop.__setitem__(0, True))  # noqa: FBT003 - list.__setitem__
    group = os.posix_spawnp(command[0], command, os.environ, setsid=True)
    deadline = _watch(group, life, woken, stop, grace_s)
    if deadline is not None and not _ended(group):
        _wait_until(group, woken, life, deadline)
    _signal(group, signal.SIGKILL)  # its leader is not reaped yet, so this number is no other group's
    _, status = os.waitpid(group, 0)
    _end_orphans()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SIGNALLED - code


def _watch(group: int, life: int, woken: int, stop: list[bool], grace_s: float) -> float | None:
    """Wait until the command ends or has to; when it must have ended at the latest, or ``None``."""
    while not _ended(group):
        readable, _, _ = select.select([life, woken], [], [])
        if woken in readable:
            os.read(woken, 64)
        word = os.read(life, 1) if life in readable else None
        if word == b"k":
            return time.monotonic()
        if word is not None or stop[0]:
            _signal(group, signal.SIGINT)
            return time.monotonic() + grace_s
    return None


def _wait_until(group: int, woken: int, life: int, deadline: float) -> None:
    """Wait for an end that was asked for; a ``k`` cuts the wait short, the end of the pipe does not."""
    watched = [woken, life]
    while not _ended(group) and (left := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select(watched, [], [], left)
        if woken in readable:
            os.read(woken, 64)
        if life in readable:
            word = os.read(life, 1)
            if word == b"k":
                return
            if not word:
                watched = [woken]


def _ended(group: int) -> bool:
    return os.waitid(os.P_PID, group, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _adopt_orphans() -> None:
    """Let what the command leaves behind become a child of this process, also when it left the group."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # noqa: PLC0415 - not on every platform

        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _end_orphans() -> None:
    while True:
        try:
            found, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if found:
            continue
        children = _children()
        if not children:
            return
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os.waitpid(-1, 0)


def _children() -> list[int]:
    """Processes whose parent is this one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_bytes().rpartition(b")")[2].split()[:2]
            if int(parent) == os.getpid() and state != b"Z":
                found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
