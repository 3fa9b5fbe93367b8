"""One stage from verified inputs to a shown artifact: what DVC calls as ``varietal run VARIANT STAGE``.

1. The manifests are read; the stage's pipeline file and recipe must be those of the manifests and of this tool.
2. Every input is hashed against its listing.
3. The action is made. If an artifact of this very action exists and its bytes can be had, they are linked.
4. Otherwise the stage function runs in the work folder of the action, which a kill leaves in place.
5. The artifact is described and recorded in the work folder, then shown by rename, its record last.
"""

from __future__ import annotations

import difflib
import re
import resource
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from builder.adapter_check import check_adapter
from builder.address import Address, CodeFile, DataFile
from builder.call import call
from builder.compiled import is_written
from builder.data_folder import data_digest
from builder.edges import said
from builder.graph import build_graph
from builder.kinds import KINDS
from builder.load import load
from builder.pipeline import pipeline_file, pipelines
from builder.reuse import find_reusable
from builder.room import check_room
from builder.rows import check_rows
from builder.runner import read_runner
from builder.stage import Context, Input
from builder.work import WorkFolder, full_disk, open_work, publish
from registry.artifact import Artifact
from registry.canonical import encode
from registry.conflict_markers import left_markers
from registry.errors import InvalidError, NotFoundError, RefusedError
from registry.history import Repository
from registry.lineage import ancestors_of_model
from registry.record import (
    ArtifactSummary,
    ComponentChange,
    Record,
    RecordInput,
    artifact_folder,
    artifact_record,
    manifest_file,
)
from registry.vouched import Vouched

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.graph import Edge, Node
    from builder.load import Workspace
    from registry.action import Action
    from registry.digest import Digest
    from registry.index import Index
    from registry.lineage import Sightings
    from registry.store import Store

__all__ = ["run_apart", "run_stage"]

_NAMES_INPUTS = frozenset({"fold", "fuse", "blend"})
"""Kinds whose changes are done by inputs, each under its name; all others say their kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """A stage whose inputs have been verified."""

    root: Path
    node: Node
    inputs: tuple[Input, ...]
    action: Action


def run_stage(root: Path, address: Address, *, index: Index, store: Store, say: Callable[[str], None]) -> Record:
    """Build one stage, or find that it was built before.

    Args:
        root: Root of the repository.
        address: The stage.
        index: Records of the work tree and of git, for reuse and ancestry.
        store: Local content store, asked for bytes before the remote is.
        say: Tells the person at the terminal.

    Returns:
        The record that was written.

    Raises:
        InvalidError: A manifest, a pipeline file, a data file or an artifact breaks its rules.
        NotFoundError: There is no such stage, or an input is missing.
        DigestMismatchError: An input's bytes are not what its listing says.
        RefusedError: The recipe pinned in ``params.yaml`` is another than this tool's.
        ConflictError: Another process is at this action.
        MachineError: Disk, memory, device or a diverged training.
    """
    started = time.monotonic()
    workspace = load(root, only=address.variant)
    graph = build_graph(workspace)
    node = _find(graph, address)
    _check_recipe(workspace, node)
    _check_pipeline(root, graph, address.variant)
    job = _prepare(root, node, Vouched(Repository(root), index))
    with open_work(root, job.action.digest) as work, full_disk(str(address)):
        finished = work.finished()
        if finished is None:
            record = _reuse(job, work, index, store, say) or _compute(job, work, started, say)
            done = work.finish(record)
        else:
            say(f"{address}: finished by an earlier run that could not show it")
            done, record = finished[0], _own(finished[1], job)
        place = address.variant, address.stage
        publish(done, record, root / artifact_folder(*place), root / artifact_record(*place))
        work.remove()
    say(f"{address}: {record.artifact.type} {record.artifact.digest}")
    return record


def run_apart(
    root: Path, tree: Path, workspace: Workspace, node: Node, *, index: Sightings, say: Callable[[str], None]
) -> Record:
    """Compute one stage in a tree of its own, whatever was computed before: for a try that is thrown away.

    Args:
        root: Root of the repository, for the machine's settings and for sources of imports.
        tree: Folder that stands for it else: the stage's inputs are there, and its artifact will be.
        workspace: What the repository declares.
        node: The stage, its settings perhaps shortened.
        index: Records of the inputs, for their ancestry; all that it gives is believed.
        say: Tells the person at the terminal.

    Raises:
        Error: As of :func:`run_stage`.
    """
    started = time.monotonic()
    _check_recipe(workspace, node)
    job = replace(_prepare(tree, node, index), root=root)
    with open_work(tree, job.action.digest) as work, full_disk(str(node.address)):
        record = _compute(job, work, started, say)
        place = node.address.variant, node.address.stage
        publish(work.finish(record), record, tree / artifact_folder(*place), tree / artifact_record(*place))
        work.remove()
    return record


def _find(graph: Mapping[Address, Node], address: Address) -> Node:
    node = graph.get(address)
    if node is None:
        near = difflib.get_close_matches(str(address), map(str, graph), n=1)
        raise NotFoundError(
            f"there is no stage {address}",
            where=str(manifest_file(address.variant)),
            mend=f"did you mean {near[0]}?" if near else "add it to the manifest, then run `varietal compile`",
        )
    return node


def _check_recipe(workspace: Workspace, node: Node) -> None:
    recipes = cast("Mapping[str, int]", workspace.project.recipes)
    pinned, ours = recipes.get(node.kind), KINDS[node.kind].recipe
    if pinned != ours:
        raise RefusedError(
            f"recipe {pinned} of kind {node.kind!r} is pinned, this tool has {ours}",
            where=f"params.yaml: recipes.{node.kind}",
            mend=f"write `{node.kind}: {ours}` there to rebuild under this tool, or install the tool that has {pinned}",
        )


def _check_pipeline(root: Path, graph: Mapping[Address, Node], variant: str) -> None:
    path = str(pipeline_file(variant))
    if not is_written(root / path, pipelines(graph)[path]):
        raise InvalidError(
            f"the pipeline is not what the manifests say{left_markers(root, [path])}",
            where=path,
            mend="run `varietal compile`, then `dvc repro`",
        )


def _prepare(root: Path, node: Node, index: Sightings) -> _Job:
    inputs = tuple(_verified(root, edge, index) for edge in node.edges)
    return _Job(root=root, node=node, inputs=inputs, action=node.action([one.digest for one in inputs]))


def _verified(root: Path, edge: Edge, index: Sightings) -> Input:
    if isinstance(edge.source, DataFile):
        return _verified_data(root, edge, edge.source)
    path = root / artifact_folder(edge.source.variant, edge.source.stage)
    artifact = Artifact.read(path)
    artifact.verify_folder(path)
    return Input(
        role=edge.role,
        name=edge.name,
        path=path,
        digest=artifact.digest,
        artifact=artifact,
        format="",
        settings=edge.settings,
        source=str(edge.source),
        ancestors=ancestors_of_model(index, artifact.digest) if edge.role == "from" else frozenset(),
        row_ancestors=ancestors_of_model(index, artifact.digest, rows=True) if edge.role == "from" else None,
    )


def _verified_data(root: Path, edge: Edge, source: DataFile) -> Input:
    path = root / source.path
    try:
        digest = data_digest(path)
    except FileNotFoundError as error:
        raise NotFoundError(
            "the data file is not there", where=source.path, mend="add it, or fetch it with `dvc pull`"
        ) from error
    if not isinstance(source, CodeFile):
        check_rows(path, source.format, where=source.path)  # refused before anything heavy is loaded
    return Input(
        role=edge.role,
        name=edge.name,
        path=path,
        digest=digest,
        artifact=None,
        format=source.format,
        settings=edge.settings,
        source=f"{'code' if isinstance(source, CodeFile) else 'data'}:{source.path}",
    )


def _reuse(job: _Job, work: WorkFolder, index: Index, store: Store, say: Callable[[str], None]) -> Record | None:
    """An earlier artifact of this action, linked into the work folder."""
    work.start()
    found = find_reusable(job.root, job.node, job.action, work.out, index=index, store=store, say=say)
    if found is None:
        return None
    return replace(_own(found, job), action=job.action, reused_from=found.reused_from or found.ref)


def _own(record: Record, job: _Job) -> Record:
    """A record of the same action with this stage's names; a pinned release, read from nothing, keeps its inputs."""
    address = job.node.address
    inputs = _recorded(job.inputs) or record.inputs
    names = _renames(record.inputs, inputs)
    components = record.components
    if record.kind in _NAMES_INPUTS:
        components = tuple(_renamed(one, names) for one in components)
    return replace(
        record,
        variant=address.variant,
        stage=address.stage,
        inputs=inputs,
        components=components,
        notes=tuple(_reworded(note, names) for note in record.notes),
    )


def _renames(theirs: Sequence[RecordInput], ours: Sequence[RecordInput]) -> dict[str, str]:
    """Their names -> ours, input by input: two of one role and digest are in one order in both (``_recorded``)."""
    left: dict[tuple[str, Digest], list[str]] = {}
    for one in ours:
        left.setdefault((one.role, one.digest), []).append(one.name)
    return {one.name: some.pop(0) for one in theirs if (some := left.get((one.role, one.digest)))}


def _renamed(change: ComponentChange, names: Mapping[str, str]) -> ComponentChange:
    """A change with what did it under the names of this manifest."""
    return replace(change, by=", ".join(sorted(names.get(name, name) for name in change.by.split(", "))))


def _reworded(note: str, names: Mapping[str, str]) -> str:
    """A note with the names of this manifest; what stands in quotes, or is a part of a longer name, is none."""
    words = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return (
        re.sub(rf"(?<![\w\"'./-])(?:{words})(?![\w\"'/-]|\.\w)", lambda found: names[found[0]], note) if words else note
    )


def _compute(job: _Job, work: WorkFolder, started: float, say: Callable[[str], None]) -> Record:
    from builder.environment import device_memory_mib, environment  # noqa: PLC0415 - read what the stage imports

    address = job.node.address
    check_room(job.root, job.node.settings, job.inputs)
    where = f"{manifest_file(address.variant)}: stages.{address.stage}"
    check_adapter(job.node.settings, job.inputs, stage=where)  # refused before anything heavy is loaded
    work.start()
    context = Context(
        settings=job.node.settings,
        inputs=job.inputs,
        work=work.state,
        out=work.out,
        root=job.root,
        runner=read_runner(job.root),
        say=say,
    )
    outcome = call(job.node.kind, context, where=str(address))
    artifact = Artifact.from_folder(work.out, outcome.type, outcome.written)
    artifact.write(work.out)
    return Record(
        variant=address.variant,
        stage=address.stage,
        action=job.action,
        artifact=ArtifactSummary.of(artifact),
        inputs=_recorded(job.inputs),
        components=outcome.components,
        metrics=outcome.metrics,
        environment={**environment(), **outcome.environment},
        device=outcome.device,
        micro_batch=outcome.micro_batch,
        duration_s=round(time.monotonic() - started, 3),
        peak_memory_mib=_peak_memory_mib(apart=bool(outcome.environment)),
        depends_on=outcome.depends_on,
        notes=outcome.notes,
        reused_from="",
        renumbered=outcome.renumbered,
        device_memory_mib=outcome.device_memory_mib or device_memory_mib(),
        curve=outcome.curve,
    )


def _peak_memory_mib(*, apart: bool) -> float:
    """The most memory that this process held, or the largest of those that it started, where they did the work."""
    who = resource.RUSAGE_CHILDREN if apart else resource.RUSAGE_SELF
    return round(resource.getrusage(who).ru_maxrss / 1024, 1)


def _recorded(inputs: tuple[Input, ...]) -> tuple[RecordInput, ...]:
    """The inputs in the manifest's order; those of one role and digest as the action orders them.

    So the first of these in a record is the first of these in its action, whatever a manifest calls them.
    """
    groups: dict[tuple[str, Digest], list[Input]] = {}
    for one in inputs:
        groups.setdefault((one.role, one.digest), []).append(one)
    for some in groups.values():
        some.sort(key=lambda one: encode({**said(one.settings, one.format, one.path.name)}))
    ordered = [groups[one.role, one.digest].pop(0) for one in inputs]
    return tuple(
        RecordInput(
            role=one.role, name=one.name, digest=one.digest, weights_digest=one.weights_digest, source=one.source
        )
        for one in ordered
    )
