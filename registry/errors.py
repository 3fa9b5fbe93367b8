"""Errors that say what happened, where, and how to mend it; each class has its exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from registry.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ConflictError",
    "DeniedError",
    "DigestMismatchError",
    "Error",
    "Fault",
    "InvalidError",
    "MachineError",
    "NotFoundError",
    "RefusedError",
    "TransportError",
]


class Error(Exception):
    """Root of every error that Varietal raises on purpose.

    Attributes:
        exit_code: What the command exits with when this error ends it.
        what: What happened, with the values that matter.
        where: The file, key, ref or step that it happened in.
        mend: What the reader can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str, mend: str) -> None:
        """Keep the three parts; the message is all of them."""
        super().__init__(what)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        """The whole message, one part a line."""
        return f"{self.what}\n  where: {self.where}\n  mend: {self.mend}"


class RefusedError(Error):
    """A check or a plan says no."""

    exit_code = 1


class NotFoundError(Error):
    """What was asked for does not exist here."""

    exit_code = 2


class DigestMismatchError(Error):
    """Bytes are not the bytes that were promised."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing wrong in one document.

    Attributes:
        file: Path of the document, relative to the repository.
        line: Line of the key, counted from 1; 0 where it is not known.
        key: Dotted key path, such as ``stages.final.adapters.concise``.
        problem: What was found and what was expected.
        mend: What to write instead.
    """

    file: str
    line: int
    key: str
    problem: str
    mend: str

    def __str__(self) -> str:
        """One fault in two lines: place and problem, then the mend."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        subject = f"{self.key}: " if self.key else ""
        return f"{place}: {subject}{self.problem}\n  mend: {self.mend}"


class InvalidError(Error):
    """A document, a header or a command line breaks its rules.

    Attributes:
        faults: Every fault found, where a whole document was read; else empty.
    """

    exit_code = 4

    def __init__(self, what: str, *, where: str, mend: str, faults: tuple[Fault, ...] = ()) -> None:
        """Keep the parts, with the faults that they sum up."""
        super().__init__(what, where=where, mend=mend)
        self.faults = faults

    @classmethod
    def from_faults(cls, faults: Iterable[Fault]) -> InvalidError:
        """One error for all faults, sorted by file and line."""
        ordered = tuple(sorted(faults, key=lambda fault: (fault.file, fault.line, fault.key)))
        files = sorted({fault.file for fault in ordered})
        count = counted(len(ordered), "fault")
        return cls(
            f"{count} found",
            where=", ".join(files),
            mend="correct every one; nothing was changed",
            faults=ordered,
        )

    def __str__(self) -> str:
        """The message, or every fault in full."""
        if not self.faults:
            return super().__str__()
        return "\n".join([*map(str, self.faults), f"{self.what}: {self.mend}"])


class ConflictError(Error):
    """What should be made exists already, or someone else is at it."""

    exit_code = 5


class TransportError(Error):
    """Bytes could not be moved: a remote, a network or git did not answer as it should."""

    exit_code = 6


class DeniedError(Error):
    """The other side, or a rule of trust, forbids it."""

    exit_code = 7


class MachineError(Error):
    """The machine or a training failed: disk, memory, device, missing program, diverged loss."""

    exit_code = 8
