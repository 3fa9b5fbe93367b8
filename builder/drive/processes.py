"""Processes of a build: each in a group of its own, with a log of its own, and never longer than the build itself."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Running", "start"]

_SUPERVISOR = Path(__file__).with_name("supervisor.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A command under its supervisor.

    Attributes:
        process: The supervisor; its exit code is that of the command.
        life: Writing end of the pipe that the command lives by.
    """

    process: subprocess.Popen[bytes]
    life: int

    def stop(self) -> None:
        """Ask the group to end: SIGINT now, SIGKILL after its grace."""
        self._tell(b"s")

    def kill(self) -> None:
        """End the group at once."""
        self._tell(b"k")

    def wait(self) -> int:
        """Wait for the end; the exit code, negative where the supervisor itself was killed."""
        code = self.process.wait()
        os.close(self.life)
        return code

    def _tell(self, word: bytes) -> None:
        with suppress(OSError):  # it has just ended
            os.write(self.life, word)


def start(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    grace_s: float,
    again: bool = False,
    handed: Sequence[int] = (),
) -> Running:
    """Start a command; it ends with this process, however this process ends.

    Args:
        command: Program and arguments.
        folder: Where it stands.
        environment: All of its environment.
        log: File for all that it says.
        grace_s: Seconds between asking it to end and killing it.
        again: Go on with the log instead of beginning anew.
        handed: Files and connections, by number, that the command gets open.

    Raises:
        MachineError: The process cannot be started.
        OSError: The log cannot be written.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    supervised = [sys.executable, "-I", "-S", str(_SUPERVISOR), str(reading), str(grace_s), *command]
    try:
        with log.open("ab" if again else "wb") as stream:
            process = subprocess.Popen(
                supervised,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                pass_fds=(reading, *handed),
                start_new_session=True,  # the Ctrl-C of a terminal is the build's alone
            )
    except OSError as error:
        os.close(writing)
        raise MachineError(
            f"a process cannot be started, or its log not be written: {error.strerror or error}",
            where=str(log),
            mend="check the disk, and the limits on processes and open files",
        ) from error
    finally:
        os.close(reading)
    return Running(process=process, life=writing)
