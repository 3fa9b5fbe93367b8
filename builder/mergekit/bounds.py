"""What a manifest would refuse of a translation, told by line and key of the mergekit file. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from builder.kinds import KINDS
from builder.manifest import Project, read_manifest
from builder.rules import Draft, check
from builder.shapes import Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.mergekit.document import Document
    from registry.canonical import JSON
    from registry.errors import InvalidError
    from registry.yaml12 import KeyPath

__all__ = ["Placed", "report_faults"]

_NAME = "translated"
_PIN = {"path": "x", "sha256": "0" * 64}  # stands for the pins, which come later


class Placed(Protocol):
    """A merge that knows where in its document the keys of its stage come from."""

    @property
    def document(self) -> Document:
        """The document."""

    def place(self, path: KeyPath) -> KeyPath:
        """Where something stands there, by its keys within the stage."""


def report_faults(
    manifest: Mapping[str, JSON], adapters: Mapping[str, str], merges: Mapping[str, Placed], first: Document
) -> None:
    """Put every fault of a translated manifest into the readings of the documents that it came from.

    Args:
        manifest: The manifest but for its adapters.
        adapters: The base of each of those.
        merges: What each stage was made of.
        first: Takes the faults that no merge is to blame for.
    """
    found = _Found(file=_NAME)
    pins: dict[str, JSON] = {name: {**_PIN, "base": base} for name, base in adapters.items()}
    value: dict[str, JSON] = {**manifest, **({"adapters": pins} if pins else {})}
    read = read_manifest(_NAME, value, found)
    models = value.get("models")
    bases = {*(models if isinstance(models, dict) else {}), *adapters.values()}
    project = Project(recipes={kind: one.recipe for kind, one in KINDS.items()})  # type: ignore[misc] # kinds by name
    check(project, bases, {_NAME: Draft(value=value, manifest=read, reading=found)})
    for path, problem, mend in dict.fromkeys(found.placed):
        merge = merges.get(str(path[1])) if len(path) > 1 and path[0] == "stages" else None
        if merge is not None:
            # A manifest's forms are not mergekit's: of a number out of its bounds only what was expected is told.
            advice = "write what is expected: a manifest takes nothing else" if problem.startswith("expected") else mend
            merge.document.fault(merge.place(path[2:]), problem, advice)
        else:
            first.fault((), f"{'.'.join(map(str, path))}: {problem}", mend)


@dataclass(kw_only=True, slots=True)
class _Found(Reading):
    """A reading that keeps the key paths of its faults."""

    placed: list[tuple[KeyPath, str, str]] = field(default_factory=list)

    def fault(self, path: KeyPath, problem: str, mend: str) -> object:
        """Keep one fault, where it stands."""
        self.placed.append((path, problem, mend))
        return Reading.fault(self, path, problem, mend)

    def refuse(self, error: InvalidError, path: KeyPath) -> object:
        """Keep a value that its own reader refused."""
        self.placed.append((path, error.what, error.mend))
        return Reading.refuse(self, error, path)
