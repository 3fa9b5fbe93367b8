"""What the stages of a plan cost: size, time and downloads from records and locks, memory by formula."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from builder.address import Address, DataFile
from builder.manifest import EvaluateStage, FolderBase, PretrainStage
from builder.places import folder_of
from builder.plan.experience import expected_duration_s, expected_size_bytes
from builder.plan.memory import evaluation_mib, lora_parameters, new_network, read_network, training_mib
from builder.plan.values import Estimate
from builder.train_stages import TrainStage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.graph import Node
    from builder.plan.evidence import Evidence
    from builder.plan.judge import Outcome
    from builder.plan.memory import Network
    from builder.plan.values import PlannedStage
    from builder.runner import Runner
    from registry.record import Record

__all__ = ["Estimates"]

_MOST_RECORDS = 24
_CONFIG_BYTES = 1 << 20
_GIVE_MODELS = frozenset({"fold", "blend", "sft", "dpo"})


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
        self._networks: dict[Address, Network | None] = {}
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
            gpu_memory_mib=self._memory_mib(node, own),
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
            sizes = [size for one in _models(node) if (size := self._model_bytes(one)) is not None]
            if sizes:
                return max(sizes)
        return expected_size_bytes(own, others)

    def _model_bytes(self, address: Address) -> int | None:
        record = self._evidence.record(address)
        if record is not None:
            return record.artifact.size_bytes
        node = self._graph.get(address)
        return next((size for one in _models(node) if (size := self._model_bytes(one))), None) if node else None

    # Memory

    def _memory_mib(self, node: Node, own: Record | None) -> float | None:
        rows = self._runner.micro_batch or (own.micro_batch if own is not None else 0) or 1
        match node.settings:
            case PretrainStage() as stage:
                fresh = new_network(stage.network, stage.tokenizer.vocabulary)
                trained = fresh.parameters
                return training_mib(fresh, stage.train, trained=trained, frozen=0, rows=rows, sequences=1)
            case stage if isinstance(stage, TrainStage):
                network = self._network_under(node)
                if network is None:
                    return None
                adapter = stage.adapter
                trained = network.parameters if adapter is None else lora_parameters(network, adapter)
                return training_mib(
                    network,
                    stage.train,
                    trained=trained,
                    frozen=0 if adapter is None else network.parameters,
                    rows=min(rows, stage.train.batch),
                    sequences=stage.SEQUENCES,
                )
            case EvaluateStage() as stage:
                known = [self._network(one) for one in _models(node, "from", "against")]
                networks = [one for one in known if one is not None]
                if not networks:
                    return None
                return evaluation_mib(networks, rows=stage.batch, length=stage.max_length)
            case _:
                return None

    def _network_under(self, node: Node) -> Network | None:
        return next((found for one in _models(node) if (found := self._network(one)) is not None), None)

    def _network(self, address: Address) -> Network | None:
        """The network of an artifact, or of the model that it is made from, by whichever ``config.json`` is here."""
        if address not in self._networks:
            self._networks[address] = None  # a circle ends here
            self._networks[address] = self._read_network(address)
        return self._networks[address]

    def _read_network(self, address: Address) -> Network | None:
        node = self._graph.get(address)
        if node is not None and isinstance(node.settings, PretrainStage):
            return new_network(node.settings.network, node.settings.tokenizer.vocabulary)
        places = [self._root / folder_of(address)]
        if node is not None and isinstance(node.settings, FolderBase):
            places.append(self._root / node.settings.path)
        for place in places:
            weights = sum(path.stat().st_size for path in place.glob("*.safetensors"))
            if weights and (config := _config(place / "config.json")):
                return read_network(config, weights)
        if node is None:
            return None
        return self._network_under(node)

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


def _models(node: Node, *roles: str) -> Iterator[Address]:
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
