"""Manifests -> the graph of stages, with inputs, settings and the manifest keys that each reads. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from builder.manifest import (
    BaseName,
    DpoStage,
    EvaluateStage,
    FolderAdapter,
    FolderBase,
    FoldStage,
    HubAdapter,
    HubBase,
    PinnedRef,
    PretrainStage,
    SftStage,
    StageRef,
    effective,
)
from builder.names import BASE
from registry.components import Selector
from registry.errors import InvalidError
from registry.record import BASES, manifest_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.load import Workspace
    from builder.manifest import Manifest, Stage
    from registry.canonical import JSON

__all__ = ["Address", "DataFile", "Edge", "Node", "Source", "build_graph", "resolve"]

ImportSource: TypeAlias = FolderBase | HubBase | FolderAdapter | HubAdapter | PinnedRef


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Address:
    """A stage of a variant, or with the variant ``bases`` an imported base."""

    variant: str
    stage: str

    def __str__(self) -> str:
        """``variant:stage``, as a ref."""
        return f"{self.variant}:{self.stage}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A data set: path from the root, and the format of its rows."""

    path: str
    format: str


Source: TypeAlias = Address | DataFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """One input of a stage: its role, the manifest's word for it, where it comes from, what is said on it alone."""

    role: str
    name: str
    source: Source
    settings: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One stage.

    Attributes:
        address: Where it stands.
        kind: Stage kind.
        settings: The stage's table with all defaults filled in; for an import, its source.
        edges: Inputs, in the manifest's order.
        params: ``(file, key)`` pairs that the stage reads, for DVC.
    """

    address: Address
    kind: str
    settings: Stage | ImportSource
    edges: tuple[Edge, ...]
    params: tuple[tuple[str, str], ...]

    def action_settings(self) -> dict[str, JSON]:
        """The settings as plain values, with no name and no path in them: what an action keeps."""
        return _plain_settings(self.settings)


def build_graph(workspace: Workspace) -> dict[Address, Node]:
    """Every stage of every variant, and every base.

    Args:
        workspace: Manifests that :func:`builder.load.load` found without fault.

    Raises:
        InvalidError: An adapter's base cannot be told from the manifests, and a stage needs it.
    """
    nodes = [_base_node(name, source) for name, source in workspace.project.bases.items()]
    for variant, manifest in workspace.manifests.items():
        nodes += _import_nodes(variant, manifest)
        nodes += [_stage_node(workspace, variant, manifest, name) for name in manifest.stages]
    return {node.address: node for node in nodes}


def resolve(manifest: Manifest, name: str) -> Address:
    """Where the artifact that a manifest calls ``name`` stands.

    Raises:
        KeyError: The manifest has no such name; a loaded manifest never does this.
    """
    if name in manifest.stages:
        return Address(variant=manifest.variant, stage=name)
    source = manifest.base if name == BASE else manifest.adapters[name]
    match source:
        case BaseName():
            return Address(variant=BASES, stage=source.name)
        case StageRef():
            return Address(variant=source.variant, stage=source.stage)
        case None:
            raise KeyError(name)
        case _:
            return Address(variant=manifest.variant, stage=name)


def model_under(workspace: Workspace, address: Address) -> Address | None:
    """The model that an adapter was trained on; ``None`` where ``address`` gives no adapter.

    Raises:
        InvalidError: A pinned adapter, whose base stands only in the history of another variant.
    """
    if address.variant == BASES:
        return None
    manifest = workspace.manifests[address.variant]
    if address.stage not in manifest.stages:
        return _base_of_import(manifest, address)
    stage = manifest.stages[address.stage]
    if not isinstance(stage, SftStage | DpoStage):
        return None
    start = resolve(manifest, stage.from_)
    under = model_under(workspace, start)
    if under is not None:
        return under
    return start if stage.adapter is not None else None


def _base_of_import(manifest: Manifest, address: Address) -> Address | None:
    if address.stage == BASE:
        return None
    source = manifest.adapters[address.stage]
    if isinstance(source, FolderAdapter | HubAdapter):
        return Address(variant=BASES, stage=source.base)
    raise InvalidError(
        f"the base of the pinned adapter {address.stage!r} is not known here",
        where=f"{manifest_file(manifest.variant)}: adapters.{address.stage}",
        mend="name it by {variant, stage}, or fold it instead of training or evaluating it",
    )


def _base_node(name: str, source: FolderBase | HubBase) -> Node:
    params = ((str(manifest_file(BASES)), f"bases.{name}"), _recipe("import"))
    return Node(address=Address(variant=BASES, stage=name), kind="import", settings=source, edges=(), params=params)


def _import_nodes(variant: str, manifest: Manifest) -> Iterator[Node]:
    file = str(manifest_file(variant))
    if isinstance(manifest.base, PinnedRef):
        yield Node(
            address=Address(variant=variant, stage=BASE),
            kind="import",
            settings=manifest.base,
            edges=(),
            params=((file, BASE), _recipe("import")),
        )
    for name, source in manifest.adapters.items():
        if isinstance(source, StageRef):
            continue
        edges: tuple[Edge, ...] = ()
        if not isinstance(source, PinnedRef):
            edges = (Edge(role="base", name=source.base, source=Address(variant=BASES, stage=source.base)),)
        yield Node(
            address=Address(variant=variant, stage=name),
            kind="import",
            settings=source,
            edges=edges,
            params=((file, f"adapters.{name}"), _recipe("import")),
        )


def _stage_node(workspace: Workspace, variant: str, manifest: Manifest, name: str) -> Node:
    stage = effective(workspace.project, manifest, name)
    return Node(
        address=Address(variant=variant, stage=name),
        kind=stage.kind,
        settings=stage,
        edges=tuple(_edges(workspace, manifest, stage)),
        params=tuple(_params(workspace, manifest, name, stage)),
    )


def _edges(workspace: Workspace, manifest: Manifest, stage: Stage) -> Iterator[Edge]:
    match stage:
        case PretrainStage():
            yield _data_edge(manifest, stage.data)
        case SftStage() | DpoStage():
            yield from _artifact_edges(workspace, manifest, "from", "base", stage.from_)
            yield _data_edge(manifest, stage.data)
        case FoldStage():
            yield Edge(role="from", name=stage.from_, source=resolve(manifest, stage.from_))
            for name, weight in stage.adapters.items():
                settings: dict[str, JSON] = {"weight": weight.to_json()}
                if stage.order:
                    settings["place"] = stage.order.index(name)
                yield Edge(role="adapter", name=name, source=resolve(manifest, name), settings=settings)
        case EvaluateStage():
            yield from _artifact_edges(workspace, manifest, "from", "base", stage.from_)
            if stage.against:
                yield from _artifact_edges(workspace, manifest, "against", "against_base", stage.against)
            for label, metric in stage.metrics.items():
                said: dict[str, JSON] = {"label": label, "metric": metric.metric, "turns": metric.turns}
                yield _data_edge(manifest, metric.data, said)


def _artifact_edges(workspace: Workspace, manifest: Manifest, role: str, base_role: str, name: str) -> Iterator[Edge]:
    """An artifact, and the model under it where it is an adapter."""
    source = resolve(manifest, name)
    yield Edge(role=role, name=name, source=source)
    under = model_under(workspace, source)
    if under is not None:
        yield Edge(role=base_role, name=str(under), source=under)


def _data_edge(manifest: Manifest, name: str, settings: Mapping[str, JSON] | None = None) -> Edge:
    data = manifest.data[name]
    return Edge(role="data", name=name, source=DataFile(path=data.path, format=data.format), settings=settings or {})


def _params(workspace: Workspace, manifest: Manifest, name: str, stage: Stage) -> Iterator[tuple[str, str]]:
    file, project_file = str(manifest_file(manifest.variant)), str(manifest_file(BASES))
    yield file, f"stages.{name}"
    yield from ((file, f"data.{data}") for data in sorted(_data_names(stage)))
    if stage.kind in manifest.defaults:
        yield file, f"defaults.{stage.kind}"
    if stage.kind in workspace.project.defaults:
        yield project_file, f"defaults.{stage.kind}"
    yield _recipe(stage.kind)


def _data_names(stage: Stage) -> set[str]:
    match stage:
        case EvaluateStage():
            return {metric.data for metric in stage.metrics.values()}
        case PretrainStage() | SftStage() | DpoStage():
            return {stage.data}
        case FoldStage():
            return set()


def _recipe(kind: str) -> tuple[str, str]:
    return str(manifest_file(BASES)), f"recipes.{kind}"


_REFERENCES = frozenset({"kind", "from_", "against", "data", "adapters", "metrics", "order"})
"""Fields of a stage that point at something by name; what they point at is in the action by digest."""


def _plain_settings(settings: Stage | ImportSource) -> dict[str, JSON]:
    match settings:
        case FolderBase() | FolderAdapter():
            return {"sha256": str(settings.sha256)}
        case HubBase() | HubAdapter():
            return {"hub": settings.hub, "revision": settings.revision}
        case PinnedRef():
            return {"artifact": str(settings.digest)}
        case _:
            return {
                one.name: _plain(getattr(settings, one.name)) for one in fields(settings) if one.name not in _REFERENCES
            }


def _plain(value: object) -> JSON:
    if isinstance(value, Selector):
        return value.to_json()
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    return cast("JSON", value)
