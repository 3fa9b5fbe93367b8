"""What differs between two artifacts, tensor by tensor, from their listings alone. No weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from registry.components import Network

if TYPE_CHECKING:
    from registry.artifact import Artifact, TensorEntry

__all__ = ["Change", "TensorChange", "compare"]

Change: TypeAlias = Literal["same", "changed", "reshaped", "added", "removed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorChange:
    """One tensor in two artifacts.

    Attributes:
        name: Its name.
        component: Component of the network that it is in, or ``unknown``.
        layer: Its layer, counted from 0; ``None`` outside the layers.
        change: ``reshaped`` where dtype or shape differ, ``added`` where only the second has it.
    """

    name: str
    component: str
    layer: int | None
    change: Change


def compare(before: Artifact, after: Artifact) -> tuple[TensorChange, ...]:
    """Every tensor of either artifact, in the order of a forward pass.

    Args:
        before: The first artifact.
        after: The second.
    """
    old, new = ({entry.name: entry for entry in one.tensors} for one in (before, after))
    network = Network.from_shapes({name: entry.shape for name, entry in (old | new).items()})
    changes = [
        TensorChange(
            name=name,
            component=network.component_of(name),
            layer=network.places[name].layer if name in network.places else None,
            change=_change(old.get(name), new.get(name)),
        )
        for name in network.names
    ]
    order = {component: place for place, component in enumerate(network.components)}
    return tuple(
        sorted(
            changes,
            key=lambda one: (
                order.get(one.component, len(order)),
                -1 if one.layer is None else one.layer,
                one.name,
            ),
        )
    )


def _change(old: TensorEntry | None, new: TensorEntry | None) -> Change:
    if old is None:
        return "added"
    if new is None:
        return "removed"
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return "reshaped"
    return "same" if old.digest == new.digest else "changed"
