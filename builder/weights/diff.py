"""The difference of two artifacts, measured: which components and layers changed, how far, in how many directions."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.heat_map import heat_map
from builder.weights.difference import Difference, can_measure, measure
from builder.weights.stream import Scratch, Stored, one_torch_thread
from registry.compare import compare
from registry.safetensors import read_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from registry.artifact import Artifact
    from registry.canonical import JSON
    from registry.compare import TensorChange

__all__ = ["DiffRow", "diff", "draw", "tabulate"]

_KINDS = ("changed", "reshaped", "added", "removed", "same")


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffRow:
    """One component in one layer.

    Attributes:
        component: Component of the network, or ``unknown``.
        layer: Layer, counted from 0; ``None`` outside the layers.
        tensors: How many tensors of it there are, in either artifact.
        changes: How many of them are ``changed``, ``reshaped``, ``added``, ``removed`` or ``same``.
        difference: Of the changed ones, taken together with those that are the same; ``None`` where no changed tensor
            can be measured.
    """

    component: str
    layer: int | None
    tensors: int
    changes: Mapping[str, int]
    difference: Difference | None

    @property
    def change(self) -> str:
        """The change that matters most."""
        return next(kind for kind in _KINDS if self.changes.get(kind))

    @property
    def told(self) -> list[tuple[str, int]]:
        """Each change but ``same``, with its count; those that can be measured first."""
        return [(kind, count) for kind in _KINDS if kind != "same" and (count := self.changes.get(kind, 0))]

    @property
    def figures(self) -> tuple[str, str, str]:
        """Relative norm, largest element and rank, as text; empty where nothing was measured."""
        found = self.difference
        if found is None:
            return "", "", ""
        rank = "" if not found.rank else str(found.rank) if found.rank > 0 else "> 64"
        return f"{found.relative:.3g}", f"{found.largest:.3g}", rank

    def to_json(self) -> dict[str, JSON]:
        """Row of the JSON form; an infinite ratio is ``null``, as is what was not measured."""
        found = self.difference
        relative = found.relative if found is not None else math.inf
        return {
            "component": self.component,
            "layer": self.layer,
            "tensors": self.tensors,
            "changes": {kind: count for kind, count in self.changes.items() if count},
            "relative_norm": relative if math.isfinite(relative) else None,
            "largest": found.largest if found is not None else None,
            "rank": found.rank if found is not None and found.rank >= 0 else None,
        }


def diff(before: Path, old: Artifact, after: Path, new: Artifact, *, threads: int = 1) -> tuple[DiffRow, ...]:
    """Measure what changed between two artifacts.

    Args:
        before: Folder of the first.
        old: Its listing.
        after: Folder of the second.
        new: Its listing.
        threads: How many tensors at once.

    Raises:
        InvalidError: A changed tensor holds NaN or an infinity.
        OSError: A file cannot be read.
    """
    changes = compare(old, new)
    first, second = _stored(before, old), _stored(after, new)
    names = [one.name for one in changes if one.name in first and one.name in second]
    pairs = {name: (first[name], second[name]) for name in names if can_measure(first[name], second[name])}
    changed = {one.name for one in changes if one.change in {"changed", "reshaped"}}
    touched = {(one.component, one.layer) for one in changes if one.name in changed}
    wanted = [one.name for one in changes if one.name in pairs and (one.component, one.layer) in touched]
    with one_torch_thread(), ThreadPoolExecutor(max(1, threads)) as pool:
        measured = dict(zip(wanted, pool.map(lambda name: measure(*pairs[name], Scratch()), wanted), strict=True))
    groups: dict[tuple[str, int | None], list[TensorChange]] = {}
    for one in changes:
        groups.setdefault((one.component, one.layer), []).append(one)
    return tuple(_row(component, layer, members, measured) for (component, layer), members in groups.items())


def tabulate(rows: Iterable[DiffRow]) -> list[str]:
    """The rows as text: a line for each change of a component in a layer; what is the same is counted at the end.

    The figures of a row stand beside the first of its changes that can be measured.
    """
    table = [("component", "layer", "tensors", "change", "relative", "largest", "rank")]
    same = 0
    for row in rows:
        same += row.changes.get("same", 0)
        layer = "-" if row.layer is None else str(row.layer)
        for place, (change, count) in enumerate(row.told):
            figures = ("", "", "") if place else row.figures
            table.append((row.component, layer, str(count), change, *figures))
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return [*(lines if len(table) > 1 else []), f"{same} tensors are the same"]


def draw(rows: Sequence[DiffRow], title: str) -> str:
    """The rows as a heat map of relative norms, SVG; what has none is named in the legend."""
    numbers = sorted({row.layer for row in rows if row.layer is not None})
    outside = any(row.layer is None for row in rows)
    layers: list[int | None] = [None, *numbers] if outside else [*numbers]
    values = {(row.component, row.layer): _value(row) for row in rows}
    notes = {
        (row.component, row.layer): ", ".join(f"{count} {change}" for change, count in row.told)
        for row in rows
        if len(row.told) > 1
    }
    return heat_map(title, list(dict.fromkeys(row.component for row in rows)), layers, values, notes)


def _value(row: DiffRow) -> float | str:
    """The relative norm, or why there is none."""
    if row.change == "same":
        return 0.0
    if row.difference is None:
        return row.change if row.change in {"added", "removed"} else "cannot be measured"
    return row.difference.relative if math.isfinite(row.difference.relative) else "zero before"


def _stored(folder: Path, artifact: Artifact) -> dict[str, Stored]:
    files = sorted({entry.file for entry in artifact.tensors})
    return {
        info.name: Stored(path=folder / file, info=info)
        for file in files
        for info in read_header(folder / file).tensors.values()
    }


def _row(
    component: str, layer: int | None, members: Sequence[TensorChange], measured: Mapping[str, Difference]
) -> DiffRow:
    found = [measured[one.name] for one in members if one.name in measured]
    if not any(one.name in measured and one.change != "same" for one in members):
        found = []  # what is the same tells nothing of what could not be measured
    total = found[0] if found else None
    for one in found[1:]:
        total = total + one if total is not None else one
    return DiffRow(
        component=component,
        layer=layer,
        tensors=len(members),
        changes={kind: sum(one.change == kind for one in members) for kind in _KINDS},
        difference=total,
    )
