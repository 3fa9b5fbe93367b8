"""What a training stage will read, shown before it is trained: its data, and the tokenizer of the model under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from builder.address import Address, DataFile
from builder.data_folder import data_digest
from builder.graph import build_graph
from builder.load import load
from builder.manifest import FolderBase
from builder.places import folder_of
from builder.runner import read_runner
from builder.stage import Context, Input
from builder.train_stages import PretrainStage, TrainStage
from registry.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from builder.graph import Edge, Node
    from builder.stages.samples import Samples

__all__ = ["Sampled", "sample_stage"]

_PASSING_ON = frozenset({"pretrain", "sft", "dpo", "kto", "orpo", "cpo", "grpo", "rloo", "distill", "fold", "cast"})
"""Kinds whose artifact has the tokenizer of what they start from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """The samples of a stage.

    Attributes:
        address: The stage.
        kind: Its kind.
        model: The artifact whose tokenizer was used.
        samples: The rows.
    """

    address: Address
    kind: str
    model: Address
    samples: Samples


def sample_stage(root: Path, address: Address, *, count: int, held_out: bool, say: Callable[[str], None]) -> Sampled:
    """Rows of a training stage as it will see them; nothing is trained.

    Args:
        root: Root of the repository.
        address: The stage.
        count: How many rows to show.
        held_out: Whether to take the rows that the loss is measured on.
        say: Tells the person at the terminal.

    Raises:
        NotFoundError: There is no such stage, no such data, or no model under it whose tokenizer is here.
        InvalidError: The stage trains on no rows, or as of :func:`builder.stages.samples.take_samples`.
        MachineError: The process that renders could not be started.
    """
    graph = build_graph(load(root, only=address.variant))
    node = graph.get(address)
    if node is None:
        raise NotFoundError(f"there is no stage {address}", where="varietal sample", mend="run `varietal lint`")
    is_new = isinstance(node.settings, PretrainStage) and not node.settings.from_
    if is_new or not isinstance(node.settings, TrainStage | PretrainStage):
        mend = "name a stage that trains what is there"
        if is_new:
            mend += ": one that makes a new model makes its tokenizer, too"
        raise InvalidError(f"{address} is of kind {node.kind}", where="varietal sample", mend=mend)
    model, folder = _tokenizer_of(root, graph, node)
    context: Context[Any] = Context(
        settings=node.settings,
        inputs=tuple(_data(root, edge) for edge in node.edges if edge.role in {"data", "eval"}),
        work=root,
        out=root,
        root=root,
        runner=read_runner(root),
        say=say,
    )
    from builder.stages.samples import take_samples  # noqa: PLC0415 - transformers, in this verb alone

    samples = take_samples(context, folder, count=count, held_out=held_out)
    return Sampled(address=address, kind=node.kind, model=model, samples=samples)


def _data(root: Path, edge: Edge) -> Input:
    source = cast("DataFile", edge.source)
    path = root / source.path
    if not path.exists():
        raise NotFoundError("the data is not there", where=source.path, mend="add it, or fetch it with `dvc pull`")
    return Input(
        role=edge.role,
        name=edge.name,
        path=path,
        digest=data_digest(path),
        artifact=None,
        format=source.format,
        settings=edge.settings,
        source=f"data:{source.path}",
    )


def _tokenizer_of(root: Path, graph: Mapping[Address, Node], node: Node) -> tuple[Address, Path]:
    """The nearest model under a stage that is here and has the tokenizer that the stage will have, and its folder."""
    asked = under = _under(node)
    while under is not None:
        for folder in (root / folder_of(under), _source(root, graph, under)):
            if folder is not None and (folder / "config.json").is_file():
                return under, folder
        other = graph.get(under)
        under = _under(other) if other is not None and other.kind in _PASSING_ON else None
    raise NotFoundError(
        f"neither {asked} is here nor a model that it has its tokenizer from",
        where=str(node.address),
        mend=f"fetch it with `dvc pull {folder_of(asked)}`, or build it: `varietal build {asked.variant}`"
        if asked is not None
        else "run `varietal lint`",
    )


def _under(node: Node) -> Address | None:
    """The model that a stage starts from: that under its adapter, where it starts from one."""
    found = {edge.role: edge.source for edge in node.edges if isinstance(edge.source, Address)}
    return found.get("base") or found.get("from")


def _source(root: Path, graph: Mapping[Address, Node], address: Address) -> Path | None:
    """The folder that a base is imported from."""
    node = graph.get(address)
    return root / node.settings.path if node is not None and isinstance(node.settings, FolderBase) else None
