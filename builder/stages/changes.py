"""The component map of a record: what a stage did to each component of a network, and by what."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from registry.record import ComponentChange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.components import Network

__all__ = ["KEPT", "Did", "component_map"]


class Did(NamedTuple):
    """What was done to a tensor: a word of :class:`registry.record.ComponentChange`, and what did it."""

    change: str
    by: str


KEPT: Final = Did("kept", "")


def component_map(network: Network, done: Mapping[str, Did]) -> tuple[ComponentChange, ...]:
    """The tensors counted by what was done to them, then by component.

    Args:
        network: Where the tensors are.
        done: Tensor name -> what was done to it.
    """
    groups: dict[Did, list[str]] = defaultdict(list)
    for name, did in done.items():
        groups[did].append(name)
    return tuple(
        ComponentChange(
            component=count.component, change=did.change, layers=count.layers, tensors=count.tensors, by=did.by
        )
        for did, names in sorted(groups.items())
        for count in network.count(names)
    )
