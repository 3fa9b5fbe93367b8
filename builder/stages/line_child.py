"""A child process that is asked line by line: one line in, one line out, within a time. No torch."""

from __future__ import annotations

import os
import select
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
        )
        self._rest = b""

    def tell(self, line: bytes) -> None:
        """Send a line that has no answer; nothing happens where the process has ended."""
        stream = self._process.stdin
        try:
            if stream is not None:
                stream.write(line + b"\n")
                stream.flush()
        except BrokenPipeError:
            pass

    def ask(self, line: bytes, limit_s: float) -> bytes:
        """Send a line and wait for one.

        Args:
            line: Without a line break.
            limit_s: Seconds by the clock.

        Returns:
            The answer, without its line break; empty where the process has ended.

        Raises:
            TimeoutError: There is none in time.
        """
        self.tell(line)
        deadline, stream = time.monotonic() + limit_s, self._process.stdout
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
        """Wait for its end; below zero for the signal that ended it."""
        return self._process.wait()

    def close(self) -> None:
        """End it, whatever it is doing; more than once does no harm."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()
