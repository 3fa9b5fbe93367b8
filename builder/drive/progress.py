"""The view of a build: on a terminal what runs now, below what has ended; elsewhere a line for each start and end."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from registry.terminal import harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.drive.outcome import Outcome
    from builder.edges import Address

__all__ = ["Lines", "Screen", "Seen", "open_view"]

_TAIL_BYTES = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A running task, as it is shown.

    Attributes:
        address: The stage.
        since_s: Seconds since its start.
        log: Its log.
        device: The GPU that it has; empty without one.
    """

    address: Address
    since_s: float
    log: Path
    device: str


class Lines:
    """For a log of CI: one line for each event."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Lines go to ``say``."""
        self._say = say

    def note(self, line: str) -> None:
        """Something worth a line."""
        self._say(line)

    def started(self, address: Address, why: str) -> None:
        """A task began."""
        self._say(f"start    {address}{f'  {why}' if why else ''}")

    def ended(self, outcome: Outcome) -> None:
        """A task is over."""
        self._say(outcome.line())

    def show(self, running: Sequence[Seen], waiting: int) -> None:
        """What runs now: not for a log."""

    def close(self) -> None:
        """Nothing is left on the screen."""


class Screen:
    """For a terminal: lines that stay, and below them a part that is drawn anew."""

    def __init__(self, stream: TextIO) -> None:
        """Draw on ``stream``."""
        self._stream = stream
        self._drawn = 0

    def note(self, line: str) -> None:
        """Something worth a line."""
        self._write([line], [])

    def started(self, address: Address, why: str) -> None:
        """A task began: it shows among those that run."""

    def ended(self, outcome: Outcome) -> None:
        """A task is over."""
        self._write([outcome.line()], [])

    def show(self, running: Sequence[Seen], waiting: int) -> None:
        """What runs now, each with the last that it said."""
        width = shutil.get_terminal_size().columns - 1
        rows = [_row(one)[:width] for one in running]
        if rows and waiting:
            rows.append(f"  {waiting} waiting")
        self._write([], rows)

    def close(self) -> None:
        """Leave the lines, take away the rest."""
        self._write([], [])

    def _write(self, lines: Sequence[str], rows: Sequence[str]) -> None:
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        said = (harmless(one) for line in lines for one in line.split("\n"))  # a stage may have chosen the words
        self._stream.write(f"{up}\r\x1b[J" + "".join(f"{line}\n" for line in (*said, *rows)))
        self._stream.flush()
        self._drawn = len(rows)


def open_view(say: Callable[[str], None]) -> Lines | Screen:
    """The view that fits where the talk goes."""
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")
    return Screen(sys.stderr) if is_terminal else Lines(say)


def _row(one: Seen) -> str:
    minutes, seconds = divmod(int(one.since_s), 60)
    place = f" gpu {one.device}" if one.device else ""
    return f"  {minutes:3d}:{seconds:02d} {one.address}{place}  {_last_line(one.log)}"


def _last_line(log: Path) -> str:
    """Without what would move the cursor."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = stream.read().decode(errors="replace").replace("\r", "\n").split("\n")
    except OSError:
        return ""
    last = next((line for line in reversed(lines) if line.strip()), "")
    return "".join(letter for letter in last if letter.isprintable())
