"""Whether the locks are what the manifests ask for: every way in which a built stage is out of date.

DVC stays the judge of what runs. This is the light check that a gate needs: no DVC, no artifact, only manifests, locks,
records and data files.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from builder.compiled import is_written
from builder.copies import copy_problem, record_md5
from builder.data_folder import folder_md5
from builder.graph import Address, DataFile
from builder.pipeline import pipeline_file, pipelines
from builder.places import copy_of
from registry import yaml12
from registry.conflict_markers import left_markers
from registry.lock import Lock
from registry.record import BASES, artifact_folder, lock_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from builder.graph import Edge, Node
    from registry.canonical import JSON
    from registry.lock import LockedStage

__all__ = ["closure", "stale"]


def closure(graph: Mapping[Address, Node], addresses: Iterable[Address]) -> tuple[Address, ...]:
    """These stages and all that they are made from, in the order of the graph."""
    wanted: set[Address] = set()
    waiting = list(addresses)
    while waiting:
        address = waiting.pop()
        if address not in wanted:
            wanted.add(address)
            waiting += [edge.source for edge in graph[address].edges if isinstance(edge.source, Address)]
    return tuple(address for address in graph if address in wanted)


def stale(root: Path, graph: Mapping[Address, Node], addresses: Iterable[Address]) -> tuple[str, ...]:
    """Why the locks of these stages, and of all that they are made from, are not what the manifests ask for.

    Args:
        root: Root of the repository.
        graph: Every stage.
        addresses: The stages that matter.

    Returns:
        One line a reason; empty where everything is fresh.

    Raises:
        InvalidError: A lock cannot be read.
    """
    nodes = [graph[address] for address in closure(graph, addresses)]
    state = _State(root, graph)
    reasons = [*state.pipelines({node.address.variant for node in nodes})]
    for node in nodes:
        reasons += [f"{node.address}: {reason}" for reason in state.reasons(node)]
    return tuple(reasons)


class _State:
    """What lies in the work tree, each file read once."""

    def __init__(self, root: Path, graph: Mapping[Address, Node]) -> None:
        self._root = root
        self._graph = graph
        self._locks: dict[str, Lock] = {}
        self._documents: dict[str, JSON] = {}

    def pipelines(self, variants: set[str]) -> Iterator[str]:
        texts = pipelines(self._graph)
        for path in sorted(str(pipeline_file(variant)) for variant in variants):
            if not is_written(self._root / path, texts[path]):
                yield f"{path} is not what the manifest says{left_markers(self._root, [path])}: run `varietal compile`"

    def reasons(self, node: Node) -> Iterator[str]:
        address = node.address
        locked = self._locked(address)
        if locked is None:
            yield "was never built"
            return
        for file, key in node.params:
            now, then = self._value(file, key), locked.parameters.get(file, {}).get(key)
            if now != then:
                yield f"{key} is {now}, it was built with {then}"
        yield from _gone(node, locked)
        yield from (reason for edge in node.edges if (reason := self._input_reason(edge, locked)))
        yield from self._record_reasons(address, locked)

    def _input_reason(self, edge: Edge, locked: LockedStage) -> str:
        if isinstance(edge.source, DataFile):
            path, now = edge.source.path, self._data_md5(edge.source.path)
            if not now:
                return f"{path} is not here: fetch it with `dvc pull`"
        else:
            path = str(artifact_folder(edge.source.variant, edge.source.stage))
            producer = self._locked(edge.source)
            now = producer.outputs[path].md5 if producer is not None and path in producer.outputs else ""
        then = locked.dependencies.get(path)
        return "" if then is not None and then.md5 == now else f"{path} is not what it was built with"

    def _data_md5(self, path: str) -> str:
        """Of a data file; where it was not fetched, what the ``.dvc`` file beside it says; empty without either."""
        tracked = f"{path}.dvc"
        if (self._root / path).is_dir():
            return folder_md5(self._root / path)
        if (self._root / path).is_file() or not (self._root / tracked).is_file():
            return _md5(self._root / path)
        outputs = self._value(tracked, "outs")
        first = outputs[0] if isinstance(outputs, list) and outputs else None
        return str(first.get("md5", "")) if isinstance(first, dict) else ""

    def _record_reasons(self, address: Address, locked: LockedStage) -> Iterator[str]:
        """DVC never looks at the copy in git, so it is held against the lock here."""
        path = self._root / copy_of(address)
        data = path.read_bytes() if path.is_file() else None
        if problem := copy_problem(address, data, record_md5(locked, address)):
            yield problem

    def _locked(self, address: Address) -> LockedStage | None:
        name = f"base@{address.stage}" if address.variant == BASES else address.stage
        return self._lock(address.variant).stages.get(name)

    def _lock(self, variant: str) -> Lock:
        if variant not in self._locks:
            path = self._root / lock_file(variant)
            text = path.read_bytes() if path.exists() else b""
            self._locks[variant] = Lock.parse(text, where=str(lock_file(variant)))
        return self._locks[variant]

    def _value(self, file: str, key: str) -> JSON:
        if file not in self._documents:
            self._documents[file] = yaml12.load((self._root / file).read_bytes(), file).value
        value = self._documents[file]
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def _gone(node: Node, locked: LockedStage) -> Iterator[str]:
    """Keys that were read and are not there any more, such as the defaults of a kind: DVC forgets them in silence."""
    read = set(node.params)
    place = f"{pipeline_file(node.address.variant)}:{node.address.stage}"
    for file, keys in locked.parameters.items():
        for key in sorted(key for key in keys if (file, key) not in read):
            yield f"{key} is gone, it was built with {keys[key]}: `dvc repro --force --single-item {place}`"


def _md5(path: Path) -> str:
    """DVC's name of a file's content; empty where there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
