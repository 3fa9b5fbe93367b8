"""Which variants a request can have changed, told from the graph and the paths that differ. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.edges import DataFile
from builder.request.names import PROJECT, home_of
from registry.record import BASES, git_record, manifest_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.graph import Address, Node

__all__ = ["touched_variants"]


def touched_variants(graph: Mapping[Address, Node], paths: Iterable[str], keys: Iterable[str]) -> tuple[str, ...]:
    """Variants that a reviewer has to look at, sorted.

    Args:
        graph: Every stage of the assembled tree.
        paths: Paths that differ from main: manifests, data, locks, records.
        keys: Dotted keys of params.yaml that differ.
    """
    changed, changed_keys = set(paths), set(keys)
    changed |= {path.removesuffix(".dvc") for path in changed}
    homes = {home_of(path) for path in changed}
    touched: set[Address] = set()
    for address, node in graph.items():  # what a stage is made from comes before it, but across variants
        own = str(manifest_file(address.variant)) in changed and address.variant != BASES
        built = address.variant != BASES and f"models/{address.variant}" in homes
        params = any(file == PROJECT and key in changed_keys for file, key in node.params)
        data = any(
            isinstance(edge.source, DataFile)
            and (edge.source.path in changed or any(path.startswith(f"{edge.source.path}/") for path in changed))
            for edge in node.edges
        )
        if own or built or params or data or str(git_record(address.variant, address.stage)) in changed:
            touched.add(address)
    waiting = True
    while waiting:
        more = {one.address for one in graph.values() if any(edge.source in touched for edge in one.edges)}
        waiting = not more <= touched
        touched |= more
    return tuple(sorted({address.variant for address in touched} - {BASES}))
