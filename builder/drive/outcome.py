"""What became of each task of a build: as values, as lines for people, as JSON, as an exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from registry.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from builder.drive.dvc import How
    from builder.edges import Address
    from registry.canonical import JSON

__all__ = ["Became", "Outcome", "Report", "tail"]

Became: TypeAlias = "How | Literal['stopped', 'skipped']"
"""As :data:`builder.drive.dvc.How`; ``stopped``: the build was ended; ``skipped``: what it needs failed."""

_TAIL_BYTES = 64 << 10
_TAIL_LINES = 12
_BAD = frozenset({"failed", "busy", "unlocked"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one task.

    Attributes:
        address: The stage, or the copy of records.
        became: What happened to it.
        exit_code: 0, or that of its class of failure.
        reason: Why it failed or was skipped; empty otherwise.
        duration_s: Seconds from its start to its end, all tries.
        log: Its log, from the root; empty where it never started.
        tries: How often it was started.
    """

    address: Address
    became: Became
    exit_code: int = 0
    reason: str = ""
    duration_s: float = 0.0
    log: str = ""
    tries: int = 0

    @property
    def is_good(self) -> bool:
        """Whether what depends on it may go on."""
        return self.became in {"ran", "reused", "restored", "kept"}

    def line(self) -> str:
        """The outcome in a line."""
        if self.is_good:
            return f"{self.became:<8} {self.address}  {self.duration_s:.1f} s"
        if self.became in _BAD:
            return f"FAILED   {self.address}  after {self.duration_s:.1f} s: {self.reason}"
        return f"{self.became:<8} {self.address}{f'  {self.reason}' if self.reason else ''}"

    def to_json(self) -> JSON:
        """Plain values for JSON."""
        return {
            "stage": str(self.address),
            "became": "failed" if self.became in _BAD else self.became,
            "exit_code": self.exit_code,
            "reason": self.reason or None,
            "duration_s": round(self.duration_s, 3),
            "log": self.log or None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What became of a build.

    Attributes:
        outcomes: Of every task, in the order in which they ended.
        stopped_by: Number of the signal that ended the build; 0 without.
        unpushed: Why bytes could not be pushed; empty where they were, or were not to be.
        push_code: Exit code of that.
        pushed: Files that were sent to the remote.
    """

    outcomes: tuple[Outcome, ...]
    stopped_by: int = 0
    unpushed: str = ""
    push_code: int = 0
    pushed: int = 0

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Those that failed by themselves."""
        return tuple(one for one in self.outcomes if one.became in _BAD)

    @property
    def exit_code(self) -> int:
        """0, or that of the first failure; a build that was ended says so as a shell does."""
        if self.stopped_by:
            return 128 + self.stopped_by
        return next((one.exit_code for one in self.failed), self.push_code)

    def to_json(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        return {
            "stages": [one.to_json() for one in self.outcomes],
            "stopped": bool(self.stopped_by),
            "pushed_files": self.pushed,
            "unpushed": self.unpushed or None,
        }

    def lines(self) -> list[str]:
        """How many became what."""
        counts: dict[str, int] = {}
        for one in self.outcomes:
            word = "failed" if one.became in _BAD else one.became
            counts[word] = counts.get(word, 0) + 1
        said = ", ".join(f"{count} {word}" for word, count in counts.items()) or "nothing to build"
        return [f"{said}; {counted(self.pushed, 'file')} pushed" if self.pushed else said]

    def failures(self, logs: Sequence[tuple[Outcome, str]]) -> list[str]:
        """Each failure with the last lines of its log, for the end of a build.

        Args:
            logs: The failures, each with its log.
        """
        lines: list[str] = []
        for outcome, text in logs:
            lines += ["", outcome.line(), *(f"  | {line}" for line in tail(text)), f"  log: {outcome.log}"]
        if self.unpushed:
            lines += ["", f"not pushed: {self.unpushed}"]
        return lines


def tail(text: str, count: int = _TAIL_LINES) -> Iterable[str]:
    """The last lines of a log that hold anything; of a bar that was drawn over and over, its last state."""
    lines = (line.rpartition("\r")[2].rstrip() for line in text[-_TAIL_BYTES:].split("\n") if line.strip())
    return [line for line in lines if line][-count:]
