"""A child process that is asked line by line: one line in, one line out, within a time. No torch."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LineChild"]

_BLOCK_BYTES = 1 << 16


class LineChild:
    """The process, while it lives; what it says beside its answers goes nowhere."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], folder: str | None = None) -> None:
        """Start it.

        Args:
            command: The command and its arguments.
            environment: All of its variables.
            folder: Its working folder; that of this process where none is given.

        Raises:
            OSError: It cannot be started.
        """
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            start_new_session=True,  # so that what it starts ends with it
        )
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)
        self._rest = b""
        self._ended = False

    def tell(self, line: bytes, limit_s: float) -> None:
        """Send a line that has no answer; nothing happens where the process has ended.

        Args:
            line: Without a line break.
            limit_s: Seconds by the clock.

        Raises:
            TimeoutError: The process does not read it in time.
        """
        self._write(line, time.monotonic() + limit_s)

    def _write(self, line: bytes, deadline: float) -> None:
        stream, left = self._process.stdin, memoryview(line + b"\n")
        while stream is not None and left:
            _, ready, _ = select.select([], [stream], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            try:
                left = left[os.write(stream.fileno(), left) :]
            except BlockingIOError:  # room for less than the system takes at once
                continue
            except BrokenPipeError:
                return

    def ask(self, line: bytes, limit_s: float) -> bytes:
        """Send a line and wait for one.

        Args:
            line: Without a line break.
            limit_s: Seconds by the clock.

        Returns:
            The answer, without its line break; empty where the process has ended.

        Raises:
            TimeoutError: It is not read, or there is no answer, in time.
        """
        deadline, stream = time.monotonic() + limit_s, self._process.stdout
        self._write(line, deadline)
        while stream is not None and b"\n" not in self._rest:
            ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            block = os.read(stream.fileno(), _BLOCK_BYTES)
            if not block:
                return b""
            self._rest += block
        answer, _, self._rest = self._rest.partition(b"\n")
        return answer

    def status(self) -> int:
        """Wait for its end, and end all that it has started; below zero for the signal that ended it."""
        if not self._ended:
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        self._end()
        return self._process.wait()

    def close(self) -> None:
        """End it, whatever it is doing, and all that it has started; more than once does no harm."""
        self._end()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()

    def _end(self) -> None:
        """End the group, while its leader is not reaped: afterwards its number may be another's."""
        if not self._ended:
            self._ended = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
