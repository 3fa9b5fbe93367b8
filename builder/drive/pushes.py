"""Bytes on their way to a remote while stages go on: one push at a time, each of all that has ended since the last."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from builder.drive.noting import NO_NOTE
from builder.drive.processes import start
from builder.drive.tasks import is_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from builder.drive.errand import Errand
    from builder.drive.processes import Running
    from builder.edges import Address

__all__ = ["Pushes"]

_MOVED = re.compile(r"^pushed (\d+) files$", re.MULTILINE)


class Pushes:
    """What waits to be sent, and what is being sent.

    A push is a process of its own that holds none of DVC's locks: `dvc push` would keep every stage of the build from
    starting and from ending for as long as the bytes take.

    Attributes:
        problem: Why bytes could not be sent; empty as long as they can.
        exit_code: Exit code of that; 0 without.
        moved: Files that were sent.
    """

    def __init__(
        self,
        errand: Errand,
        environment: Mapping[str, str],
        log: Path,
        *,
        since_s: float,
        kept: Iterable[Address],
        grace_s: float,
    ) -> None:
        """Nothing waits.

        Args:
            errand: What is built, and where its bytes go.
            environment: That of the build, with its credentials.
            log: File for what pushes say.
            since_s: When the build began, by the wall clock: records of the run cache since then are sent too.
            kept: Stages that an earlier build may have ended without pushing: they are looked at last.
            grace_s: Seconds that a push is given to end.
        """
        self.problem = ""
        self.exit_code = 0
        self.moved = 0
        self._errand = errand
        self._environment = environment
        self._log = log
        self._since_s = since_s
        self._waiting: list[Address] = []
        self._kept = list(kept)
        self._running: Running | None = None
        self._grace_s = grace_s

    @property
    def is_running(self) -> bool:
        """Whether a push is under way."""
        return self._running is not None

    def offer(self, address: Address) -> None:
        """A stage has ended: its bytes may go."""
        if not is_records(address):
            self._waiting.append(address)

    def offer_rest(self) -> None:
        """All stages have ended: those that were kept may go, too."""
        self._waiting += self._kept
        self._kept = []

    def start_next(self) -> Running | None:
        """Start a push of all that waits, unless one is under way or the remote failed."""
        if self._running is not None or not self._waiting or self.problem:
            return None
        names = [str(address) for address in self._waiting]
        self._waiting = []
        errand, since = self._errand.to_text(), str(self._since_s)
        command = (sys.executable, "-P", "-m", "builder.drive.push", errand, since, *names)
        self._running = start(
            command, folder=self._errand.root, environment=self._environment, log=self._log, grace_s=self._grace_s
        )
        return self._running

    def ended(self, code: int) -> tuple[str, ...]:
        """The push that was under way ended; why notes were not written, if they were not."""
        self._running = None
        text = self._log.read_text(encoding="utf-8", errors="replace")
        self.moved += sum(int(count) for count in _MOVED.findall(text))
        if code:
            self.exit_code = code if 0 < code <= 8 else 6  # noqa: PLR2004 - the classes of our errors
            lines = [line for line in text.splitlines() if line.strip()]
            self.problem = "\n  ".join(line.strip() for line in lines[-3:]) or f"the push ended with {code}"
        return tuple(line for line in text.splitlines() if line.startswith(NO_NOTE))

    def stop(self) -> None:
        """End the push that is under way; what it had sent stays sent, and the next build looks for the rest."""
        if self._running is not None:
            self._running.stop()
