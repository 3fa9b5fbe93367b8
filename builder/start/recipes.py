"""Recipes of a repository beside those of this tool: which are older, which are newer, and what raising one reruns.

A tool upgrade changes nothing by itself: params.yaml pins the revision of each kind's meaning, and what was built stays
what it is. Only a stage that must be built again needs the revision that the tool has. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from builder.edges import Address
from builder.kinds import KINDS
from builder.start.text_edit import add_entry, replace_scalars
from registry.errors import Fault
from registry.record import BASES, manifest_file
from registry.yaml12 import line_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from builder.graph import Node
    from builder.manifest import Project
    from registry.canonical import JSON
    from registry.yaml12 import KeyPath

__all__ = ["Rerun", "Revision", "faults", "raise_recipes", "rerun", "revisions"]

_FILE = str(manifest_file(BASES))


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """The recipe of a kind, as a repository pins it and as this tool has it.

    Attributes:
        kind: The kind.
        pinned: What params.yaml says; 0 where it says nothing.
        tool: What this tool has.
    """

    kind: str
    pinned: int
    tool: int

    @property
    def is_older(self) -> bool:
        """Whether the repository pins an older one than the tool has."""
        return 0 < self.pinned < self.tool

    @property
    def is_newer(self) -> bool:
        """Whether the repository pins one that this tool does not know yet."""
        return self.pinned > self.tool

    def to_json(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        return {"kind": self.kind, "pinned": self.pinned or None, "tool": self.tool}

    def __str__(self) -> str:
        """What to know of it, in one line."""
        advice = f": `varietal upgrade {self.kind}`" if self.is_older else ""
        return f"recipe {self.pinned} of {self.kind} is pinned, this tool has {self.tool}{advice}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rerun:
    """What other recipes rerun.

    Attributes:
        run: Stages whose own recipe changes.
        maybe: What is made from them: run if an input comes out different.
    """

    run: tuple[Address, ...]
    maybe: tuple[Address, ...]


def revisions(project: Project) -> tuple[Revision, ...]:
    """Every kind of this tool with what the repository pins, in the tool's order."""
    pinned = cast("Mapping[str, int]", project.recipes)
    return tuple(Revision(kind=name, pinned=pinned.get(name, 0), tool=kind.recipe) for name, kind in KINDS.items())


def faults(found: Collection[Revision], lines: Mapping[KeyPath, int]) -> tuple[Fault, ...]:
    """Recipes that are newer than this tool's, as faults of params.yaml.

    Args:
        found: What is pinned.
        lines: Line of each of its keys.
    """
    return tuple(
        Fault(
            file=_FILE,
            line=line_of(lines, ("recipes", one.kind)),
            key=f"recipes.{one.kind}",
            problem=f"revision {one.pinned}, this tool has {one.tool}",
            mend="install the tool that this repository pins, `pip install -r requirements.txt`; an older one cannot"
            " build what a newer one means",
        )
        for one in found
        if one.is_newer
    )


def rerun(graph: Mapping[Address, Node], kinds: Collection[str]) -> Rerun:
    """The stages that raising the recipes of some kinds reruns, in the order of the graph."""
    run = {address for address, node in graph.items() if node.kind in kinds}
    touched = set(run)
    before = -1
    while before != len(touched):  # the graph is in the manifests' order, not sorted by who needs whom
        before = len(touched)
        touched |= {
            address
            for address, node in graph.items()
            if any(isinstance(edge.source, Address) and edge.source in touched for edge in node.edges)
        }
    return Rerun(
        run=tuple(address for address in graph if address in run),
        maybe=tuple(address for address in graph if address in touched - run),
    )


def raise_recipes(text: str, wanted: Collection[Revision]) -> str:
    """The text of params.yaml with these kinds at the tool's revision, all else as it was.

    Raises:
        InvalidError: Its form cannot be edited safely.
    """
    pinned = [one for one in wanted if one.pinned]
    if pinned:
        text = replace_scalars(text, {("recipes", one.kind): one.tool for one in pinned}, where=_FILE)
    for one in wanted:
        if not one.pinned:
            text = add_entry(text, ("recipes",), one.kind, one.tool, where=_FILE)
    return text
