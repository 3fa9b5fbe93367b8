"""The networks of a plan's artifacts, by whichever ``config.json`` is on this machine. Reads files, no torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from builder.address import Address
from builder.manifest import FolderBase, PretrainStage
from builder.places import folder_of
from builder.plan.memory import new_network, read_network

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.graph import Node
    from builder.plan.memory import Network

__all__ = ["Networks", "models_of"]

_CONFIG_BYTES = 1 << 20


class Networks:
    """Finds the network of an artifact, or of the model that it is made from; each is looked for once."""

    def __init__(self, root: Path, graph: Mapping[Address, Node]) -> None:
        """Begin.

        Args:
            root: Root of the repository.
            graph: The stages.
        """
        self._root = root
        self._graph = graph
        self._known: dict[Address, Network | None] = {}

    def under(self, node: Node) -> Network | None:
        """The network that a stage starts from; ``None`` where no file tells."""
        return next((found for one in models_of(node) if (found := self.of(one)) is not None), None)

    def of(self, address: Address) -> Network | None:
        """The network of an artifact; ``None`` where no file tells."""
        if address not in self._known:
            self._known[address] = None  # a circle ends here
            self._known[address] = self._read(address)
        return self._known[address]

    def _read(self, address: Address) -> Network | None:
        node = self._graph.get(address)
        if node is not None and isinstance(node.settings, PretrainStage) and node.settings.network is not None:
            return new_network(node.settings.network, node.settings.tokenizer.vocabulary)
        places = [self._root / folder_of(address)]
        if node is not None and isinstance(node.settings, FolderBase):
            places.append(self._root / node.settings.path)
        for place in places:
            weights = sum(path.stat().st_size for path in place.glob("*.safetensors"))
            if weights and (config := _config(place / "config.json")):
                return read_network(config, weights)
        return None if node is None else self.under(node)


def models_of(node: Node, *roles: str) -> Iterator[Address]:
    """What a stage reads in one of these roles; in any but that of an adapter where none is named."""
    for edge in node.edges:
        if isinstance(edge.source, Address) and (edge.role in roles if roles else edge.role != "adapter"):
            yield edge.source


def _config(path: Path) -> Mapping[str, object]:
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            return {}
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
