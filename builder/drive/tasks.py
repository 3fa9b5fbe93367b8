"""A plan -> tasks: every stage that is not kept, and after the stages of a variant the copy of its records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.copies import record_md5
from builder.drive.schedule import Task
from builder.edges import Address, DataFile
from builder.pipeline import RECORDS
from registry.canonical import encode
from registry.digest import digest_bytes
from registry.record import BASES, artifact_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.graph import Node
    from builder.plan.values import PlannedStage
    from registry.canonical import JSON
    from registry.lock import Lock

__all__ = ["base_of_records", "is_records", "records_address", "tasks_of"]

_RECORDS_S = 0.1
_UNKNOWN_S = 60.0


def tasks_of(
    stages: Sequence[PlannedStage], graph: Mapping[Address, Node], locks: Mapping[str, Lock]
) -> tuple[Task, ...]:
    """The tasks of a build.

    Args:
        stages: What the plan says on each stage that was asked for, and on those that they need.
        graph: Every stage of the repository.
        locks: The lock of each variant that has stages in the plan; that of ``bases`` too.
    """
    driven = {one.address for one in stages if one.verdict != "keep"}
    identities: dict[Address, str] = {}
    tasks = [
        Task(
            address=one.address,
            needs=frozenset(one.needs) & driven,
            twin=_identity(graph, one.address, identities),
            weight_s=_UNKNOWN_S if one.estimate.duration_s is None else one.estimate.duration_s,
        )
        for one in stages
        if one.address in driven
    ]
    return (*tasks, *_record_tasks({one.address for one in stages}, driven, graph, locks))


def records_address(address: Address) -> Address:
    """The task that copies a stage's record into git: one a variant, and one a base."""
    name = f"{RECORDS}@{address.stage}" if address.variant == BASES else RECORDS
    return Address(variant=address.variant, stage=name)


def is_records(address: Address) -> bool:
    """Whether a task copies records."""
    return address.stage == RECORDS or address.stage.startswith(f"{RECORDS}@")


def base_of_records(address: Address) -> str:
    """The base whose record a task copies; empty where it copies a variant's."""
    return address.stage.partition("@")[2]


def _record_tasks(
    planned: set[Address], driven: set[Address], graph: Mapping[Address, Node], locks: Mapping[str, Lock]
) -> Iterable[Task]:
    groups: dict[Address, list[Address]] = {}
    for address in graph:
        groups.setdefault(records_address(address), []).append(address)
    for records, members in groups.items():
        if planned.isdisjoint(members):
            continue
        lock = locks.get(records.variant)
        known = all(one in driven or _record_md5(lock, one) for one in members)
        needs = driven.intersection(members)
        if known and (needs or not _is_copied(lock, records, members)):
            yield Task(address=records, needs=frozenset(needs), weight_s=_RECORDS_S)


def _is_copied(lock: Lock | None, records: Address, members: Iterable[Address]) -> bool:
    """Whether the copy was made from these very records: else an earlier build ended before it."""
    copied = None if lock is None else lock.stages.get(records.stage)
    if copied is None:
        return False
    then = {path: file.md5 for path, file in copied.dependencies.items()}
    return then == {str(artifact_record(one.variant, one.stage)): _record_md5(lock, one) for one in members}


def _record_md5(lock: Lock | None, address: Address) -> str:
    """What the lock says of a stage's record; empty where it was never built."""
    name = f"base@{address.stage}" if address.variant == BASES else address.stage
    return record_md5(None if lock is None else lock.stages.get(name), address)


def _identity(graph: Mapping[Address, Node], address: Address, known: dict[Address, str]) -> str:
    """Equal for stages that, as far as manifests tell, have the same action, whatever they are called."""
    if address not in known:
        node = graph[address]
        inputs: list[JSON] = [
            [
                edge.role,
                {**edge.settings},
                f"{edge.source.path} {edge.source.format}"
                if isinstance(edge.source, DataFile)
                else _identity(graph, edge.source, known),
            ]
            for edge in node.edges
        ]
        known[address] = digest_bytes(encode([node.kind, node.action_settings(), inputs])).hex
    return known[address]
