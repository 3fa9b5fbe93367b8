"""What a rank says to the process that started it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.runner import Runner
    from builder.stage import Input, Outcome
    from registry.errors import Error

__all__ = ["Ended", "Failed", "Message", "Raised", "Started", "Talk", "Task"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a rank is told: its stage, as :class:`builder.stage.Context` has it, without what talks.

    Attributes:
        kind: Stage kind.
        where: The stage, for errors.
        settings: The stage's table of the manifest.
        inputs: Verified inputs.
        work: Folder of the checkpoints, that of all ranks.
        out: Folder for the artifact; only that of the first rank becomes one.
        root: Root of the repository.
        runner: Settings of the machine, with the threads of one rank.
    """

    kind: str
    where: str
    settings: Any
    inputs: tuple[Input, ...]
    work: Path
    out: Path
    root: Path
    runner: Runner


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A rank runs; signals can be sent to it."""

    process: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Talk:
    """A line for the person at the terminal."""

    line: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A rank has done its part.

    Attributes:
        outcome: What the first rank made; ``None`` of the others.
        environment: Facts of the process that made it.
    """

    outcome: Outcome | None
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Raised:
    """An error of ours on its way from one process to another: by its parts, since its arguments are not all of it."""

    kind: type[Error]
    arguments: tuple[object, ...]
    parts: Mapping[str, object]

    @classmethod
    def of(cls, error: Error) -> Raised:
        """Take an error apart."""
        return cls(kind=type(error), arguments=error.args, parts=dict(vars(error)))

    def error(self) -> Error:
        """Put it together again."""
        made = self.kind.__new__(self.kind, *self.arguments)
        vars(made).update(self.parts)
        return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A rank gave up.

    Attributes:
        what: Last line of the trace.
        error: An error that was raised on purpose: its class, arguments and parts; ``None`` for another.
        is_memory: Whether the device's memory did not do for this micro-batch.
        is_interrupt: Whether it was asked to end, and did not wait.
    """

    what: str
    error: Raised | None = None
    is_memory: bool = False
    is_interrupt: bool = False


Message: TypeAlias = Started | Talk | Ended | Failed
