"""Memory of a device that the stages of a plan need: by formula, corrected by what earlier builds measured."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from builder.address import Address, DataFile
from builder.manifest import EvaluateStage, PretrainStage
from builder.places import folder_of
from builder.plan.memory import card_mib, evaluation_mib, new_network
from builder.plan.networks import models_of
from builder.plan.training_load import length_of, load_of, told_by, what_fits
from builder.plan.training_memory import training_memory
from builder.train_stages import TrainStage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from builder.graph import Node
    from builder.plan.memory import Network
    from builder.plan.networks import Networks
    from builder.plan.training_load import Told
    from builder.plan.training_memory import Load
    from builder.runner import Runner
    from registry.record import Record

__all__ = ["Memories"]

_MIB: Final = 1 << 20
_MIB_PER_GIB: Final = 1024
_NUMBER_BYTES: Final = 4  # adapters are stored in float32
_LEAST, _MOST = 0.8, 1.25  # records differ from the formula by their rows too, which are none of another stage's
_TOKEN_BYTES: Final = 8  # of a row's line, at least one token: keys, quotes and long words
_READ_BYTES: Final = 64 << 20
_SHORTEST: Final = 64


class Memories:
    """Estimates the memory of one stage after another."""

    def __init__(self, root: Path, graph: Mapping[Address, Node], runner: Runner, networks: Networks) -> None:
        """Begin.

        Args:
            root: Root of the repository.
            graph: The stages.
            runner: Settings of this machine.
            networks: The networks of the artifacts.
        """
        self._root, self._graph, self._runner, self._networks = root, graph, runner, networks

    def needed_mib(self, node: Node, own: Record | None, others: Sequence[Record]) -> float | None:
        """Memory that a card has to have for a stage, MiB; ``None`` where the stage uses none or nothing is known.

        Args:
            node: The stage.
            own: The record of its last build.
            others: Records of the same kind.
        """
        if isinstance(node.settings, EvaluateStage):
            known = [self._networks.of(one) for one in models_of(node, "from", "against")]
            networks = [one for one in known if one is not None]
            stage = node.settings
            return evaluation_mib(networks, rows=stage.batch, length=stage.max_length) if networks else None
        rows = self._runner.micro_batch or (own.micro_batch if own is not None else 0) or 1
        found = self._load(node, rows)
        if found is None:
            return None
        network, load = found
        if own is not None and own.device_memory_mib and _is_unchanged(node, own) and own.micro_batch == load.rows:
            return card_mib(own.device_memory_mib * _MIB)
        return card_mib(training_memory(network, load).peak_bytes * self._correction(others))

    def unfit(self, node: Node) -> str:
        """What to write instead, where a training cannot fit the runner's card with a single row at a time.

        Empty where it fits, where the card is not known, and where its rows may be short enough.
        """
        card = self._runner.card_memory_gib * _MIB_PER_GIB
        found = self._load(node, 1) if card and getattr(node.settings, "targets", None) is None else None
        if found is None:
            return ""
        network, load = found
        shortest = self._shortest(node, load.length)
        if training_memory(network, replace(load, length=shortest, is_padded=False)).card_mib <= card:
            return ""
        told = self._told(node)
        return "" if told is None else what_fits(network, told, length=load.length, card_mib=card)

    def _load(self, node: Node, rows: int) -> tuple[Network, Load] | None:
        told = self._told(node)
        network = self._network(node)
        if told is None or network is None:
            return None
        batch = told.training.batch
        load = load_of(network, told, rows=min(rows, batch), length=length_of(told.training), share=batch)
        return network, load

    def _told(self, node: Node) -> Told | None:
        if not isinstance(node.settings, TrainStage | PretrainStage):
            return None
        return told_by(node.settings, trained=self._going_on(node))

    def _network(self, node: Node) -> Network | None:
        match node.settings:
            case PretrainStage(network=made) as stage if made is not None:
                return new_network(made, stage.tokenizer.vocabulary)
            case _:
                return self._networks.under(node)

    def _going_on(self, node: Node) -> int:
        """Numbers of the adapter that a stage goes on training, by its file; 0 where it starts from a model."""
        for address in models_of(node, "from"):
            source = self._graph.get(address)
            path = self._root / folder_of(address) / "adapter_model.safetensors"
            if path.is_file():
                return path.stat().st_size // _NUMBER_BYTES
            adapter = None if source is None else getattr(source.settings, "adapter", None)
            if source is not None and adapter is not None:
                network = self._networks.under(source)
                told = self._told(source)
                if network is not None and told is not None:
                    return load_of(network, told, rows=1, length=1, share=1).trained
        return 0

    def _correction(self, others: Sequence[Record]) -> float:
        """How much more records of the kind measured than the formula says of them, as half of them have it."""
        ratios = []
        for record in others:
            node = self._graph.get(Address(variant=record.variant, stage=record.stage))
            if node is None or not record.device_memory_mib or not _is_unchanged(node, record):
                continue
            found = self._load(node, record.micro_batch or 1)
            if found is not None:
                ratios.append(record.device_memory_mib * _MIB / training_memory(*found).peak_bytes)
        return min(_MOST, max(_LEAST, statistics.median(ratios))) if ratios else 1.0

    def _shortest(self, node: Node, length: int) -> int:
        """Tokens that the longest row has for certain."""
        found = 0
        for edge in node.edges:
            if isinstance(edge.source, DataFile) and edge.role == "data":
                found = max(found, _longest_line(self._root / edge.source.path) // _TOKEN_BYTES)
        return min(length, max(found, _SHORTEST))


def _is_unchanged(node: Node, record: Record) -> bool:
    """Whether a record is on the settings that the stage has now."""
    return dict(record.action.settings) == dict(node.action_settings())


def _longest_line(path: Path) -> int:
    """Bytes of the longest line of a data file; 0 where it is not here, large, or no lines."""
    try:
        if path.suffix != ".jsonl" or path.stat().st_size > _READ_BYTES:
            return 0
        with path.open("rb") as stream:
            return max(map(len, stream), default=0)
    except OSError:
        return 0
