"""The commands of DVC that a build gives, and what their words mean. Nothing else of a build runs DVC.

``--pull`` is not among them: DVC then fetches every record of the remote's run cache, one by one, for each stage. The
build fetches what a stage is missing by itself, with its own credentials, which the stage does not see.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from builder.pipeline import pipeline_file
from registry.record import BASES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.edges import Address

__all__ = [
    "Ending",
    "How",
    "addressing",
    "commit",
    "fetch_ending",
    "is_ours",
    "pull",
    "recall_ending",
    "repro",
    "repro_ending",
    "smoke_ending",
]

# `-P`, since the work tree is where DVC stands, and a `dvc.py` in it would be taken for DVC itself.
_DVC = (sys.executable, "-P", "-m", "dvc", "--wait-for-lock")

How: TypeAlias = Literal["ran", "reused", "restored", "kept", "busy", "unlocked", "failed"]
"""``ran``: computed. ``reused``: an artifact of the same action was linked, or what an earlier run had finished.
``restored``: out of DVC's run cache.
``kept``: DVC found it up to date. ``busy``: another process was in the way, it is worth another try. ``unlocked``: it
was computed and shown, and DVC failed to write it down. ``failed``: all else."""

_EXITED = re.compile(r"exited with (-?\d+)\s*$", re.MULTILINE)
_BUSY = re.compile(r"Unable to acquire lock|is busy, it is being blocked by|is at this stage already")
_REUSED = re.compile(r"is this very artifact; nothing is computed|finished by an earlier run that could not show it")
_DENIED = re.compile(
    r"Unable to locate credentials|AccessDenied|Access Denied|Forbidden|Unauthori[sz]ed|Permission denied"
)
_MISSING = re.compile(r"issing cache files|does not exist|do not exist|No such file")
_FULL = "No space left on device"
_OURS = range(1, 9)
_FAILED = 8
_BUSY_CODE = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a command of DVC ended.

    Attributes:
        how: What became of the stage.
        exit_code: 0, or one of Varietal's for the class of the failure.
        reason: The failure in a line, or what else there is to tell; empty without.
    """

    how: How
    exit_code: int = 0
    reason: str = ""


def addressing(address: Address) -> str:
    """A stage as DVC names it from the root."""
    is_base = address.variant == BASES and "@" not in address.stage
    return f"{pipeline_file(address.variant)}:{f'base@{address.stage}' if is_base else address.stage}"


def repro(address: Address) -> tuple[str, ...]:
    """The command that lets DVC judge one stage alone, and run it if it changed."""
    return (*_DVC, "repro", "--single-item", "--allow-missing", addressing(address))


def commit(address: Address) -> tuple[str, ...]:
    """The command that writes a stage down as it lies in the work tree."""
    return (*_DVC, "commit", "--force", addressing(address))


def pull(targets: Iterable[str]) -> tuple[str, ...]:
    """The command that fetches files, or outputs of stages, and puts them where they belong."""
    return (*_DVC, "pull", "--", *targets)


def is_ours(code: int) -> bool:
    """Whether an exit code is a class of Varietal's errors."""
    return code in _OURS


def repro_ending(code: int, log: str) -> Ending:
    """What `dvc repro` of one stage did.

    Args:
        code: Its exit code: 0 or 255, whatever that of the stage was.
        log: All that it and the stage said.
    """
    if code == 0:
        if "\nRunning stage '" not in f"\n{log}":
            return Ending(how="restored" if "is cached - skipping run" in log else "kept")
        return Ending(how="reused" if _REUSED.search(log) else "ran")
    exited = _EXITED.findall(log)
    if _BUSY.search(log) and (not exited or int(exited[-1]) == _BUSY_CODE):
        how: How = "unlocked" if "\nRunning stage '" in f"\n{log}" and not exited else "busy"
        return Ending(how=how, exit_code=_BUSY_CODE, reason=_last_words(log))
    if exited:
        own = int(exited[-1])
        return Ending(how="failed", exit_code=own if is_ours(own) else _FAILED, reason=_stage_words(log))
    if _FULL in log:
        reason = "the disk is full; make room, then `dvc commit --force` of this stage keeps what was computed"
        return Ending(how="failed", exit_code=_FAILED, reason=reason)
    return Ending(how="failed", exit_code=_FAILED, reason=_last_words(log))


def fetch_ending(code: int, log: str) -> Ending:
    """What `dvc pull` did."""
    if code == 0:
        return Ending(how="ran")
    reason = f"inputs cannot be fetched: {_last_words(log)}"
    if _BUSY.search(log):
        return Ending(how="busy", exit_code=_BUSY_CODE, reason=reason)
    if _FULL in log:
        return Ending(how="failed", exit_code=_FAILED, reason=reason)
    for code_, pattern in ((7, _DENIED), (2, _MISSING)):
        if pattern.search(log):
            return Ending(how="failed", exit_code=code_, reason=reason)
    return Ending(how="failed", exit_code=6, reason=reason)


def bring_ending(code: int, log: str) -> Ending:
    """What the way out of quarantine did."""
    ending = smoke_ending(code, log)
    return Ending(how=ending.how, exit_code=ending.exit_code, reason=ending.reason and f"inputs: {ending.reason}")


def recall_ending(code: int, log: str) -> Ending:
    """What came of looking for notes: whatever it was, the stage is next."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if code:
        lines = [f"progress notes were not looked for: {lines[-1] if lines else f'it ended with {code}'}"]
    return Ending(how="ran", reason="; ".join(lines))


def smoke_ending(code: int, log: str) -> Ending:
    """What one try of a stage did."""
    if code == 0:
        return Ending(how="ran")
    return Ending(how="failed", exit_code=code if is_ours(code) else _FAILED, reason=_stage_words(log))


def _stage_words(log: str) -> str:
    """What an error of ours said, which is the line before its `where:`; else the last line before DVC's own."""
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith(("ERROR: ", "WARNING: "))]
    for number, line in enumerate(lines):
        if line.startswith("  where: ") and number:
            return lines[number - 1].strip()
    return lines[-1].strip() if lines else "nothing was said"


def _last_words(log: str) -> str:
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    lines = errors or [line for line in log.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "nothing was said"
