"""What the stages of a plan cost: size, time and downloads from records and locks, memory by formula."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.address import Address, DataFile
from builder.places import folder_of
from builder.plan.experience import expected_duration_s, expected_size_bytes
from builder.plan.memories import Memories
from builder.plan.networks import Networks, models_of
from builder.plan.values import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.graph import Node
    from builder.plan.evidence import Evidence
    from builder.plan.judge import Outcome
    from builder.plan.values import PlannedStage
    from builder.runner import Runner
    from registry.record import Record

__all__ = ["Estimates"]

_MOST_RECORDS = 24
_GIVE_MODELS = frozenset(
    {"fold", "blend", "pretrain", "sft", "dpo", "kto", "orpo", "cpo", "reward", "grpo", "rloo", "distill"}
)


class Estimates:
    """Estimates stages one after another; what several of them would fetch is counted for the first."""

    def __init__(
        self,
        root: Path,
        graph: Mapping[Address, Node],
        evidence: Evidence,
        runner: Runner,
        alike: Mapping[str, Sequence[Address]],
    ) -> None:
        """Begin.

        Args:
            root: Root of the repository.
            graph: The stages.
            evidence: What is found in the repository.
            runner: Settings of this machine.
            alike: Stages that may have been built, by kind.
        """
        self._root = root
        self._graph = graph
        self._evidence = evidence
        self._runner = runner
        self._alike = alike
        self._records: dict[str, tuple[Record, ...]] = {}
        self._memories = Memories(root, graph, runner, Networks(root, graph))
        self._fetched: set[str] = set()

    def of(self, planned: PlannedStage, outcomes: Mapping[Address, Outcome]) -> Estimate:
        """What a stage costs; nothing, where it is kept.

        Args:
            planned: The stage, judged.
            outcomes: What each stage will have given.
        """
        found = outcomes[planned.address].found
        if planned.verdict == "reuse" and found is not None:
            return Estimate(size_bytes=found.record.artifact.size_bytes, downloads_bytes=found.missing_bytes)
        node = self._graph[planned.address]
        own, others = self._evidence.record(planned.address), self._of_kind(planned.kind)
        size = self._size_bytes(node, own, others)
        if planned.verdict == "reuse":
            return Estimate(size_bytes=size, downloads_bytes=0)
        duration, spread = expected_duration_s(node.action_settings(), own, others)
        return Estimate(
            size_bytes=size,
            gpu_memory_mib=self._memories.needed_mib(node, own, others),
            does_not_fit=self._memories.unfit(node),
            duration_s=duration,
            duration_spread_s=spread,
            downloads_bytes=sum(self._downloads(node, outcomes)),
        )

    def _of_kind(self, kind: str) -> tuple[Record, ...]:
        """Records of some stages of a kind, evenly over all of them."""
        if kind not in self._records:
            addresses = self._alike.get(kind, ())
            chosen = addresses[:: max(1, -(-len(addresses) // _MOST_RECORDS))]
            records = (self._evidence.record(address) for address in chosen)
            self._records[kind] = tuple(one for one in records if one is not None and one.kind == kind)
        return self._records[kind]

    def _size_bytes(self, node: Node, own: Record | None, others: Sequence[Record]) -> int | None:
        """What gives a whole model gives one about as large as the largest that it reads."""
        gives_model = node.kind in _GIVE_MODELS and getattr(node.settings, "adapter", None) is None
        if own is None and gives_model:
            sizes = [size for one in models_of(node) if (size := self._model_bytes(one)) is not None]
            if sizes:
                return max(sizes)
        return expected_size_bytes(own, others)

    def _model_bytes(self, address: Address) -> int | None:
        record = self._evidence.record(address)
        if record is not None:
            return record.artifact.size_bytes
        node = self._graph.get(address)
        return next((size for one in models_of(node) if (size := self._model_bytes(one))), None) if node else None

    # Downloads

    def _downloads(self, node: Node, outcomes: Mapping[Address, Outcome]) -> Iterator[int]:
        """Bytes of inputs that are neither in the work tree nor in DVC's cache; what is built comes for nothing."""
        for edge in node.edges:
            source = edge.source
            if str(source) in self._fetched:
                continue
            self._fetched.add(str(source))
            if isinstance(source, DataFile):
                yield self._data_bytes(source.path)
            elif outcomes[source].verdict == "keep":
                yield self._artifact_bytes(source)

    def _data_bytes(self, path: str) -> int:
        if (self._root / path).exists():
            return 0
        oid, size_bytes = self._evidence.tracked(path)
        return size_bytes if oid and not self._evidence.is_cached(oid) else 0

    def _artifact_bytes(self, address: Address) -> int:
        locked = self._evidence.locked(address)
        output = None if locked is None else locked.outputs.get(folder_of(address))
        if output is None or (self._root / output.path).is_dir():
            return 0
        record = self._evidence.record(address)
        sizes = {} if record is None else {file.path: file.size_bytes for file in record.artifact.files}
        missing, lacks = self._evidence.missing_bytes(output.md5, sizes)
        return missing if sizes or not lacks else output.size_bytes
