"""What a person should know of a plan and no stage says: pipelines that are stale, records that do not belong."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from builder.kinds import KINDS
from builder.pipeline import BASES_PIPELINE, HEAD, ROOT_PIPELINE, compile_variant, pipeline_file
from registry.conflict_markers import left_markers
from registry.record import BASES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.address import Address
    from builder.graph import Node
    from builder.manifest import Project
    from builder.plan.evidence import Evidence
    from builder.plan.values import PlannedStage

__all__ = [
    "SHALLOW_NOTE",
    "future_note",
    "notes_of_dropped_keys",
    "notes_of_recipes",
    "notes_of_records",
    "notes_of_tree",
    "stale_note",
    "stale_pipelines",
    "unreadable_note",
]

SHALLOW_NOTE = (
    "this clone is shallow: artifacts of commits that it lacks are not found again; run `git fetch --unshallow`"
)
"""Said where the history was asked for."""

_MOST = 5


def notes_of_tree(root: Path) -> Iterator[str]:
    """The two static pipelines, and those of variants that are gone."""
    for path, text in {"dvc.yaml": ROOT_PIPELINE, str(pipeline_file(BASES)): BASES_PIPELINE}.items():
        if not _is(root / path, text):
            yield f"{path} is not the one that builds everything: `varietal compile` writes it"
    left = [f"{folder}/dvc.yaml" for folder in _without_manifest(root)]
    if ours := [path for path in left if _starts(root / path, HEAD)]:
        yield f"left without a manifest: {_some(ours)}; `varietal compile` removes them"


def stale_pipelines(root: Path, graph: Mapping[Address, Node], variants: Iterable[str]) -> tuple[str, ...]:
    """Pipeline files of these variants that are not what their manifests say; paths from the root, sorted.

    Raises:
        InvalidError: A path holds ``${``.
    """
    nodes: dict[str, dict[Address, Node]] = {}
    for address, node in graph.items():
        nodes.setdefault(address.variant, {})[address] = node
    stale: list[str] = []
    for variant in sorted(set(variants) & nodes.keys() - {BASES}):
        path = str(pipeline_file(variant))
        if not _is(root / path, compile_variant(variant, nodes[variant])):
            stale.append(path)
    return tuple(stale)


def notes_of_records(evidence: Evidence, stages: Iterable[PlannedStage]) -> Iterator[tuple[Address, str]]:
    """Stage and note for each copy of a record in git that is not the one that the lock names, nor sure to change."""
    for one in stages:
        locked = evidence.locked(one.address) if one.verdict in {"keep", "maybe"} else None
        if locked is not None and (problem := evidence.record_problem(one.address, locked)):
            yield one.address, problem


def notes_of_dropped_keys(
    evidence: Evidence, graph: Mapping[Address, Node], stages: Iterable[PlannedStage]
) -> Iterator[tuple[str, str]]:
    """Variant and note for each stage that is kept though it was built with a key that its pipeline lists no more.

    DVC compares the keys that a pipeline lists now, so defaults that are taken away as a whole go unseen.
    """
    for one in stages:
        locked = evidence.locked(one.address) if one.verdict == "keep" else None
        if locked is None:
            continue
        listed = set(graph[one.address].params)
        built = [(file, key) for file, keys in locked.parameters.items() for key in keys]
        if gone := [f"{key} of {file}" for file, key in built if (file, key) not in listed]:
            place = f"{pipeline_file(one.address.variant)}:{locked.name}"
            said = f"{one.address} was built with {', '.join(gone)}, which is gone, and DVC does not see that"
            yield one.address.variant, f"{said}: `dvc repro --force --single-item {place}`"


def notes_of_recipes(project: Project, stages: Iterable[PlannedStage]) -> Iterator[str]:
    """Kinds that would run under another recipe than this tool's, which refuses them."""
    recipes: Mapping[str, int] = {str(kind): revision for kind, revision in project.recipes.items()}
    for kind in sorted({one.kind for one in stages if one.verdict != "keep"}):
        pinned, ours = recipes.get(kind), KINDS[kind].recipe
        if pinned is not None and pinned != ours:
            yield (
                f"params.yaml pins recipe {pinned} of {kind!r} and this tool has {ours}: its stages would be refused; "
                f"`varietal upgrade` raises the pin, or install the tool that has recipe {pinned}"
            )


def stale_note(root: Path, paths: Sequence[str]) -> str:
    """On pipelines that are not what their manifests say."""
    left = left_markers(root, paths[:_MOST])
    return f"not what the manifest says, and DVC goes by it: {_some(paths)}{left}; run `varietal compile`"


def future_note(paths: Iterable[str]) -> str:
    """On files whose time of change is still to come."""
    named = _some(sorted(paths))
    return f"dated in the future, so hashed at every plan: {named}; set this machine's clock, or `touch` them"


def unreadable_note(problems: Mapping[str, str]) -> str:
    """On records that the locks name and that cannot be read, perhaps since another version of this tool wrote them."""
    first = next(iter(problems.values()))
    return f"these records cannot be read ({first}): {_some(problems)}; nothing is reused from them: build them again"


def _without_manifest(root: Path) -> Iterator[str]:
    """Folders of models/ that hold no manifest, from the root."""
    try:
        entries = sorted(os.scandir(root / "models"), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if not os.path.lexists(f"{entry.path}/model.yaml"):
            yield f"models/{entry.name}"


def _starts(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes().startswith(text.encode())


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _some(paths: Iterable[str]) -> str:
    """The first few paths."""
    named: Sequence[str] = list(paths)
    more = f" and {len(named) - _MOST} more" if len(named) > _MOST else ""
    return f"{', '.join(named[:_MOST])}{more}"
