"""Lineage: what an artifact was made from, and what was made from it. Walks over record values; nothing is read here.

A walk ends at data sets, at pins from outside, and at digests that no record here explains. An artifact that is reached
twice is walked once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from registry.canonical import JSON
    from registry.digest import Digest
    from registry.index import Sighting
    from registry.record import Record, RecordInput

__all__ = ["Lineage", "Node", "Sightings", "ancestors", "ancestors_of_model", "descendants", "to_json", "to_text"]

Find: TypeAlias = "Callable[[Digest], Sequence[Record]]"
"""Records of an artifact, or of the stages that read one."""

_MODEL_ROLES = frozenset({"from", "base", "model", "against"})


class Sightings(Protocol):
    """What lineage asks of an index."""

    def by_artifact(self, digest: Digest) -> tuple[Sighting, ...]:
        """Every sighting of a record of this artifact."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """An artifact, a data set, or something from outside.

    Attributes:
        digest: Its digest.
        name: ``variant:stage``, or where it came from, such as ``data:data/rows.jsonl``.
        record: How it was made; ``None`` where the walk ends.
        next: What it was made from (or what was made from it): role and digest of each.
    """

    digest: Digest
    name: str
    record: Record | None
    next: tuple[tuple[str, Digest], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """A walk.

    Attributes:
        start: Digest that the walk began at.
        nodes: All that it met, in the order in which it met them.
    """

    start: Digest
    nodes: Mapping[Digest, Node]


def ancestors(record: Record, made: Find) -> Lineage:
    """All that an artifact was made from.

    Args:
        record: The artifact's record.
        made: Records of an artifact; of several, the one that the reading stage names is followed.
    """
    walk = _Walk()
    walk.add(record.artifact.digest, record.ref, record, ((one.role, one.digest) for one in record.inputs))
    waiting = deque(record.inputs)
    while waiting:
        one = waiting.popleft()
        if one.digest in walk.nodes:
            continue
        origin = _origin(one, made(one.digest))
        inputs = origin.inputs if origin is not None else ()
        walk.add(one.digest, one.source, origin, ((each.role, each.digest) for each in inputs))
        waiting += inputs
    return Lineage(start=record.artifact.digest, nodes=walk.nodes)


def descendants(start: Digest, name: str, used: Find) -> Lineage:
    """All that was made from an artifact or a data set: what it touches, should it prove bad.

    Args:
        start: Its digest.
        name: What people call it.
        used: Records of the stages that read an artifact or a data set.
    """
    walk = _Walk()
    waiting: deque[tuple[Digest, str, Record | None]] = deque([(start, name, None)])
    while waiting:
        digest, label, record = waiting.popleft()
        if digest in walk.nodes:
            continue
        users = {one.artifact.digest: one for one in used(digest)}
        walk.add(digest, label, record, ((_role(one, digest), made) for made, one in users.items()))
        waiting += [(made, one.ref, one) for made, one in users.items()]
    return Lineage(start=start, nodes=walk.nodes)


def ancestors_of_model(index: Sightings, digest: Digest, *, rows: bool = False) -> frozenset[Digest]:
    """Weights digests of the models that an artifact was made from, itself left out; adapters and data do not count.

    Something follows from it, so the index must be one whose records are believed (:mod:`registry.vouched`).

    A model whose layers were put together anew descends from none: a layer's number no longer says the same.

    Args:
        index: Of all records.
        digest: The artifact.
        rows: Only those whose tokens have the very rows of embedding and head there that they have here.
    """
    moved = {"layers", "tokens"} if rows else {"layers"}
    found: set[Digest] = set()
    seen: set[Digest] = set()
    waiting = [digest]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        for sighting in index.by_artifact(here):
            lost = {one.digest for one in sighting.record.renumbered if one.what in moved}
            inputs = [one for one in sighting.record.inputs if one.role in _MODEL_ROLES and one.digest not in lost]
            found |= {one.weights_digest for one in inputs if one.weights_digest is not None}
            waiting += [one.digest for one in inputs]
    return frozenset(found)


def to_text(lineage: Lineage) -> str:
    """The walk as a tree; what was shown above is not spelt out again."""
    lines = [_line(lineage.nodes[lineage.start])]
    shown = {lineage.start}
    waiting = deque(_children(lineage.nodes[lineage.start], ""))
    while waiting:
        branch, indent, role, digest = waiting.popleft()
        node = lineage.nodes[digest]
        known = digest in shown and node.next
        lines.append(f"{branch}{role}  {_line(node)}{'  (above)' if known else ''}")
        if not known:
            shown.add(digest)
            waiting.extendleft(reversed(_children(node, indent)))
    return "\n".join(lines)


def to_json(lineage: Lineage) -> JSON:
    """The walk as ``start`` and ``nodes``: ``digest``, ``name``, ``kind``, ``type``, ``next`` (role and digest)."""
    return {
        "start": str(lineage.start),
        "nodes": [
            {
                "digest": str(node.digest),
                "name": node.name,
                "kind": node.record.kind if node.record is not None else None,
                "type": node.record.artifact.type if node.record is not None else None,
                "next": [{"role": role, "digest": str(digest)} for role, digest in node.next],
            }
            for node in lineage.nodes.values()
        ],
    }


@dataclass(slots=True)
class _Walk:
    """The nodes met so far."""

    nodes: dict[Digest, Node] = field(default_factory=dict)

    def add(self, digest: Digest, name: str, record: Record | None, following: Iterable[tuple[str, Digest]]) -> None:
        self.nodes[digest] = Node(digest=digest, name=name, record=record, next=tuple(dict.fromkeys(following)))


def _origin(one: RecordInput, records: Sequence[Record]) -> Record | None:
    named = [record for record in records if record.ref == one.source]
    return next(iter([*named, *records]), None)


def _role(record: Record, digest: Digest) -> str:
    return next(one.role for one in record.inputs if one.digest == digest)


def _children(node: Node, indent: str) -> list[tuple[str, str, str, Digest]]:
    """Branch, indent of what comes beneath, role and digest of each."""
    last = len(node.next) - 1
    return [
        (indent + ("└─ " if place == last else "├─ "), indent + ("   " if place == last else "│  "), role, digest)
        for place, (role, digest) in enumerate(node.next)
    ]


def _line(node: Node) -> str:
    if node.record is None:
        return f"{node.name}  {node.digest.algorithm}:{node.digest.short}"
    what = f"{node.record.kind} -> {node.record.artifact.type}"
    return f"{node.name}  {what}  {node.digest.algorithm}:{node.digest.short}"
