"""The Finding value: what is the case on this machine, whether it will do, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from registry.canonical import JSON
    from registry.errors import Error

__all__ = ["Finding", "Status", "failed", "good", "of_error", "poor"]

Status: TypeAlias = Literal["ok", "warn", "fail"]
"""``ok``; ``warn``: works, but will cost something; ``fail``: something that people do here cannot work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What was looked at, in one or two words.
        status: Whether it will do.
        said: What is the case.
        mend: What to do about it; empty where nothing has to be done.
    """

    subject: str
    status: Status
    said: str
    mend: str = ""

    def to_json(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        return {"subject": self.subject, "status": self.status, "said": self.said, "mend": self.mend or None}

    def lines(self) -> list[str]:
        """The finding, and beneath it how to mend it."""
        mark = "FAIL" if self.status == "fail" else self.status
        return [f"{mark:4}  {self.subject}: {self.said}", *([f"      mend: {self.mend}"] if self.mend else [])]


def good(subject: str, said: str) -> Finding:
    """What will do."""
    return Finding(subject=subject, status="ok", said=said)


def poor(subject: str, said: str, mend: str) -> Finding:
    """What works, but will cost something."""
    return Finding(subject=subject, status="warn", said=said, mend=mend)


def failed(subject: str, said: str, mend: str) -> Finding:
    """What cannot work."""
    return Finding(subject=subject, status="fail", said=said, mend=mend)


def of_error(subject: str, error: Error) -> Finding:
    """An error of ours as a finding."""
    return failed(subject, f"{error.what} ({error.where})", error.mend)
