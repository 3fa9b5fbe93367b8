"""Runs one stage as a manifest says it and the graph gives it, on folders that stand for its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from builder.graph import Address, build_graph
from builder.kinds import KINDS
from builder.load import Workspace
from builder.manifest import parse_manifest, parse_project
from builder.runner import Runner
from builder.stage import Context, Input
from registry.artifact import Artifact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from builder.graph import Node
    from builder.stage import Outcome

__all__ = ["inputs_of", "node_of", "run_node", "turned"]

_PINNED: Final = {"path": "sources/some", "sha256": "a" * 64}
_PROJECT: Final = {
    "bases": {"tiny": _PINNED},
    "recipes": {kind: one.recipe for kind, one in KINDS.items()},
    "defaults": {},
}


def node_of(
    stage: Mapping[str, Any], *, models: Iterable[str] = (), adapters: Iterable[str] = (), other_order: bool = False
) -> Node:
    """A stage in the graph.

    Args:
        stage: Its table, as YAML gives it.
        models: Names that it may say beside ``base``.
        adapters: Names of adapters, all trained on the base.
        other_order: Whether the keys of every mapping come in the other order.
    """
    manifest: dict[str, Any] = {
        "schema": 1,
        "base": "tiny",
        "adapters": {name: _PINNED | {"base": "tiny"} for name in adapters},
        "stages": {name: {"kind": "cast", "from": "base", "dtype": "float32"} for name in models} | {"made": stage},
        "release": "made",
    }
    project: dict[str, Any] = _PROJECT
    if other_order:
        manifest, project = turned(manifest), turned(project)
    workspace = Workspace(project=parse_project(project), manifests={"demo": parse_manifest("demo", manifest)})
    return build_graph(workspace)[Address(variant="demo", stage="made")]


def turned(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """The same with the keys of every mapping in the other order."""
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(value)}
    return [turned(one) for one in value] if isinstance(value, list) else value


def inputs_of(node: Node, folders: Mapping[str, Path]) -> tuple[Input, ...]:
    """A stage's inputs; each name of the manifest stands for the folder of an artifact."""
    inputs = []
    for edge in node.edges:
        assert isinstance(edge.source, Address)
        folder = folders["base" if edge.source.variant == "bases" else edge.source.stage]
        artifact = Artifact.read(folder)
        made = Input(
            role=edge.role,
            name=edge.name,
            path=folder,
            digest=artifact.digest,
            artifact=artifact,
            format="",
            settings=edge.settings,
            source=str(edge.source),
        )
        inputs.append(made)
    return tuple(inputs)


def run_node(node: Node, inputs: tuple[Input, ...], out: Path, *, threads: int = 1) -> Outcome:
    """Run the stage on the CPU; ``out`` is made, and a work folder beside it.

    What a stage sets in its whole process, such as the number of torch's threads, is put back.
    """
    work = out.with_name(f"{out.name}-work")
    for folder in (out, work):
        folder.mkdir(parents=True)
    context: Context[Any] = Context(
        settings=node.settings,
        inputs=inputs,
        work=work,
        out=out,
        root=out.parent,
        runner=Runner(threads=threads, device="cpu"),
        say=lambda _: None,
    )
    import torch  # noqa: PLC0415 - the stage loads it anyhow, and not before it must

    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined] # a property
    try:
        return KINDS[node.kind].load()(context)
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
