"""What a task consists of: commands one after the other, each with its environment and a reader of its words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.drive.dvc import Ending, How
    from builder.drive.schedule import Task
    from builder.drive.slots import Slot
    from builder.edges import Address

__all__ = ["Step", "Work"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One command.

    Attributes:
        command: Program and arguments.
        environment: All of its environment.
        read: What its exit code and its words mean.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    read: Callable[[int, str], Ending]


class Work(Protocol):
    """How the tasks of a build are done."""

    def steps(self, task: Task, slot: Slot, last: How | None) -> Sequence[Step]:
        """The commands of a task, asked for when it starts; ``last`` says how its try before ended."""

    def log(self, address: Address) -> Path:
        """File for all that its commands say."""

    def why(self, address: Address) -> str:
        """Why it is done, in a few words; empty where nobody said."""
