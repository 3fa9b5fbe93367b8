"""How much of a network each component is, and what a selector matches in it: as values, and as a text tree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from registry.components import UNKNOWN, Network
from registry.safetensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from registry.canonical import JSON
    from registry.selector import Selector

__all__ = ["ComponentSize", "describe", "tabulate"]


class _Tensor(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentSize:
    """The tensors of one component.

    Attributes:
        component: Component name, or ``unknown``.
        layers: As ``0-5``; empty outside the layers.
        tensors: How many.
        parameters: Numbers in them.
        size_bytes: Bytes of them.
        matched: How many of the tensors the selector means; 0 without a selector.
        names: Tensor names, of unknown tensors only.
    """

    component: str
    layers: str
    tensors: int
    parameters: int
    size_bytes: int
    matched: int
    names: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """Row of the JSON form; ``names`` only where there are any."""
        row: dict[str, JSON] = {
            "component": self.component,
            "layers": self.layers,
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes": self.size_bytes,
            "matched": self.matched,
        }
        return {**row, "names": list(self.names)} if self.names else row


def tabulate(tensors: Iterable[_Tensor], selector: Selector | None = None) -> tuple[ComponentSize, ...]:
    """One row a component, in the order of a forward pass; unknown tensors last.

    Args:
        tensors: Name, safetensors dtype and shape of every tensor of one model or adapter.
        selector: What to count as matched.

    Raises:
        InvalidError: The selector matches nothing.
    """
    known = {tensor.name: tensor for tensor in tensors}
    network = Network.from_shapes({name: tensor.shape for name, tensor in known.items()})
    matched = frozenset() if selector is None else frozenset(network.select(selector))
    members: dict[str, list[_Tensor]] = {}
    for name, tensor in known.items():
        members.setdefault(network.component_of(name), []).append(tensor)
    return tuple(
        ComponentSize(
            component=row.component,
            layers=row.layers,
            tensors=row.tensors,
            parameters=sum(math.prod(tensor.shape) for tensor in members[row.component]),
            size_bytes=sum(math.prod(tensor.shape) * DTYPE_BYTES[tensor.dtype] for tensor in members[row.component]),
            matched=sum(tensor.name in matched for tensor in members[row.component]),
            names=tuple(tensor.name for tensor in members[row.component]) if row.component == UNKNOWN else (),
        )
        for row in network.count(known)
    )


def describe(tensors: Iterable[_Tensor], selector: Selector | None = None) -> tuple[str, ...]:
    """The rows of ``tabulate`` as a text tree: components with their parts indented, unknown tensors by name, a total.

    Raises:
        InvalidError: The selector matches nothing.
    """
    rows = tabulate(tensors, selector)
    table: list[tuple[str, ...]] = [("component", "layers", "tensors", "parameters", "size", "matched")]
    for root in dict.fromkeys(_root(row) for row in rows):
        parts = [row for row in rows if _root(row) == root]
        if len(parts) > 1 or parts[0].component != root:
            table.append(_cells(root, parts[0].layers if len({part.layers for part in parts}) == 1 else "", parts))
        for part in parts:
            _, dot, name = part.component.partition(".")
            table.append(_cells(f"  {name}" if dot else part.component, part.layers, [part]))
            table += [(f"  {name}", "", "", "", "", "") for name in part.names]
    table.append(_cells("total", "", rows))
    return _align(table if selector is not None else [row[:-1] for row in table])


def _root(row: ComponentSize) -> str:
    return row.component.partition(".")[0]


def _cells(label: str, layers: str, rows: Sequence[ComponentSize]) -> tuple[str, ...]:
    tensors, matched = (sum(getattr(row, key) for row in rows) for key in ("tensors", "matched"))
    parameters, size_bytes = (sum(getattr(row, key) for row in rows) for key in ("parameters", "size_bytes"))
    return label, layers, str(tensors), f"{parameters:,}", _size(size_bytes), str(matched or "-")


def _size(size_bytes: int) -> str:
    """Bytes in the largest binary unit that keeps the figure at 1 or more."""
    size, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:  # noqa: PLR2004
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def _align(table: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Columns as wide as their widest cell: the first two to the left, figures to the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return tuple(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)  # noqa: PLR2004
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
