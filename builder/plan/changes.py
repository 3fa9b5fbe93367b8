"""Why a stage is not what its lock says, by the rules of DVC, in the words of the manifest. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.plan.evidence import MISSING
from registry.record import manifest_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.graph import Node
    from registry.lock import LockedStage

__all__ = ["Finding", "changed_keys", "changed_values", "command_change", "say_value"]

_MOST_LINES = 12
_MOST_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A difference between a stage and its lock.

    Attributes:
        reason: In one line.
        certain: Whether DVC runs the stage for it, whatever comes out elsewhere.
    """

    reason: str
    certain: bool = True


def command_change(node: Node, locked: LockedStage) -> Iterator[Finding]:
    """A command that is not the stage's: DVC compares it as text."""
    command = f"varietal run {node.address.variant} {node.address.stage}"
    if locked.command != command:
        words = locked.command.split(" ")
        renamed = len(words) == 4 and words[:2] == ["varietal", "run"]  # noqa: PLR2004 - variant and stage
        said = f"renamed from {words[2]}:{words[3]}" if renamed else f"it was built by `{say_value(locked.command)}`"
        yield Finding(reason=said)


def changed_values(node: Node, locked: LockedStage, value: Callable[[str, str], object]) -> Iterator[Finding]:
    """Manifest keys whose values differ; DVC compares them as Python does, so 1, 1.0 and true are equal.

    Args:
        node: The stage.
        locked: The stage as it was built.
        value: Value of a key in a file, as the work tree has it.
    """
    for file, key in node.params:
        before, now = locked.parameters.get(file, {}).get(key, MISSING), value(file, key)
        if before != now:
            prefix = "" if file == str(manifest_file(node.address.variant)) else f"{file}: "
            lines = list(changed_keys(f"{prefix}{key}", before, now))
            yield from (Finding(reason=line) for line in lines[:_MOST_LINES])
            if len(lines) > _MOST_LINES:
                yield Finding(reason=f"{prefix}{key}: {len(lines) - _MOST_LINES} more differences")


def changed_keys(key: str, before: object, now: object) -> Iterator[str]:
    """The leaves of two values that differ, as ``key: old -> new``.

    Args:
        key: Dotted key of the values; empty for a document.
        before: The old value.
        now: The new one.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            old, new = before.get(name, MISSING), now.get(name, MISSING)
            if old != new:
                yield from changed_keys(f"{key}.{name}" if key else str(name), old, new)
        return
    yield f"{key}: {say_value(before)} -> {say_value(now)}"


def say_value(value: object) -> str:
    """A value as a manifest has it, on one line, cut where it is long."""
    text = _text(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."


def _text(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case dict():
            return "{" + ", ".join(f"{name}: {_text(one)}" for name, one in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_text, value)) + "]"
        case str():
            return " ".join(value.split()) or '""'
        case _:
            return "not set" if value is MISSING else str(value)
