"""Manifests -> the graph of stages, with inputs, settings and the manifest keys that each reads. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

from builder.edges import Address, DataFile, Edge, Source, edges_of, plain, resolve
from builder.kinds import KINDS
from builder.manifest import (
    BlendStage,
    EvaluateStage,
    FolderAdapter,
    FolderBase,
    HubAdapter,
    HubBase,
    PinnedRef,
    PretrainStage,
    StageRef,
    effective,
)
from builder.names import BASE
from builder.train_stages import TrainStage
from registry.action import Action, ActionInput
from registry.record import BASES, manifest_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.load import Workspace
    from builder.manifest import Manifest, Stage
    from registry.canonical import JSON
    from registry.digest import Digest

__all__ = ["Address", "DataFile", "Edge", "Node", "Source", "build_graph", "reference_fields", "resolve"]

ImportSource: TypeAlias = FolderBase | HubBase | FolderAdapter | HubAdapter | PinnedRef


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

    def action(self, digests: Sequence[Digest]) -> Action:
        """What the stage does, once its inputs are known.

        Args:
            digests: One for each edge, in their order.
        """
        pairs = zip(self.edges, digests, strict=True)
        return Action(
            kind=self.kind,
            recipe=KINDS[self.kind].recipe,
            settings=self.action_settings(),
            inputs=tuple(ActionInput(role=edge.role, digest=digest, settings=edge.said) for edge, digest in pairs),
        )


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
    for name, model in manifest.models.items():
        if isinstance(model, PinnedRef):
            yield Node(
                address=Address(variant=variant, stage=name),
                kind="import",
                settings=model,
                edges=(),
                params=((file, f"models.{name}"), _recipe("import")),
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
        edges=tuple(edges_of(workspace, manifest, name, stage)),
        params=tuple(_params(workspace, manifest, name, stage)),
    )


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
        case _ if isinstance(stage, PretrainStage | TrainStage):
            return {name for role, name in stage.references() if role in {"data", "eval"}}
        case _:
            return set()


def _recipe(kind: str) -> tuple[str, str]:
    return str(manifest_file(BASES)), f"recipes.{kind}"


_REFERENCES = frozenset(
    {
        "kind",
        "from_",
        "against",
        "data",
        "evaluation",
        "adapters",
        "metrics",
        "models",
        "order",
        "rewards",
        "teacher",
        "template",
    }
)
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
            named = reference_fields(type(settings))
            return {one.name: plain(getattr(settings, one.name)) for one in fields(settings) if one.name not in named}


def reference_fields(table: type[Stage]) -> frozenset[str]:
    """Fields of a stage's table that an action leaves out: what they name is in it by digest."""
    layers = {"layers"} if table is BlendStage else set()
    return frozenset(one.name for one in fields(table)) & (_REFERENCES | layers)
