"""Graph, locks, records and files -> the plan: what a build would do with each stage, why, and at what cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.address import DataFile
from builder.plan.digests import Digests
from builder.plan.estimate import Estimates
from builder.plan.evidence import CommitTexts, Evidence, TreeTexts
from builder.plan.judge import Judge, in_order
from builder.plan.memo import Memo
from builder.plan.notes import (
    SHALLOW_NOTE,
    future_note,
    notes_of_dropped_keys,
    notes_of_recipes,
    notes_of_records,
    notes_of_tree,
    stale_note,
    stale_pipelines,
    unreadable_note,
)
from builder.plan.reusable import Earlier
from builder.plan.unchanged import Kept
from builder.plan.values import Estimate, Plan, PlannedStage, PlannedVariant, Verdict
from builder.runner import read_runner
from registry.history import Repository
from registry.record import BASES, lock_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from builder.address import Address
    from builder.graph import Node
    from builder.load import Workspace
    from builder.plan.judge import Outcome

__all__ = ["Estimate", "Plan", "PlannedStage", "PlannedVariant", "Verdict", "make_plan", "plan_graph"]


def make_plan(root: Path, workspace: Workspace, graph: Mapping[Address, Node], *, against: str = "") -> Plan:
    """What a build would do with every stage of a graph.

    Args:
        root: Root of the repository.
        workspace: What it declares.
        graph: Its stages.
        against: A commit whose locks and records are taken instead of the work tree's; empty for those.

    Raises:
        NotFoundError: There is no such commit.
        InvalidError: A lock cannot be read, or git cannot read the history.
        MachineError: git is missing.
    """
    return plan_graph(root, workspace, graph, against=against, memo=Memo(root), kept={})[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scene:
    """What a plan is made from.

    Attributes:
        root: Root of the repository.
        workspace: What it declares.
        graph: Its stages.
        commit: Commit whose locks and records count; empty for the work tree's.
        digests: Hashes of the work tree.
        evidence: What is found.
        kept: Variants that are known to need no build.
    """

    root: Path
    workspace: Workspace
    graph: Mapping[Address, Node]
    commit: str
    digests: Digests
    evidence: Evidence
    kept: Mapping[str, Kept]

    @property
    def variants(self) -> tuple[str, ...]:
        """Those that have to be looked at."""
        return tuple(name for name in (BASES, *self.workspace.manifests) if name not in self.kept)


def plan_graph(
    root: Path,
    workspace: Workspace,
    graph: Mapping[Address, Node],
    *,
    against: str,
    memo: Memo,
    kept: Mapping[str, Kept],
) -> tuple[Plan, dict[str, Kept]]:
    """A plan without the variants that are known to be kept, and which others are found to need no build.

    Args:
        root: Root of the repository.
        workspace: What it declares, those others at least.
        graph: Its stages.
        against: A commit whose locks and records are taken instead of the work tree's; empty for those.
        memo: Hashes of files.
        kept: Variants that are known to need no build.

    Raises:
        NotFoundError: There is no such commit.
        InvalidError: A lock cannot be read, or git cannot read the history.
        MachineError: git is missing.
    """
    repository, digests = Repository(root), Digests(root, memo)
    commit = repository.resolve(against) if against else ""
    locks = {str(lock_file(address.variant)) for address in graph}
    texts = CommitTexts(repository, commit, locks) if commit else TreeTexts(root)
    evidence = Evidence(root, digests, texts, workspace.documents, in_tree=not commit)
    scene = _Scene(
        root=root, workspace=workspace, graph=graph, commit=commit, digests=digests, evidence=evidence, kept=kept
    )
    try:
        with Earlier(root, evidence) as earlier:
            judge = Judge(evidence, earlier, _oids(kept))
            judged = [judge.judge(graph[address]) for address in in_order(graph) if address.variant not in kept]
            is_cut = earlier.was_asked and bool(repository.is_shallow())
        stages = _estimated(scene, judged, judge.outcomes)
        copies = () if commit else tuple(notes_of_records(evidence, judged))
        flaws = () if commit else tuple(notes_of_dropped_keys(evidence, graph, judged))
        stale = stale_pipelines(root, graph, scene.variants)
    finally:
        digests.save()
    notes = (
        *notes_of_tree(root),
        *([stale_note(root, stale)] if stale else []),
        *(note for _, note in copies),
        *(note for _, note in flaws),
        *([unreadable_note(evidence.unreadable)] if evidence.unreadable else []),
        *notes_of_recipes(workspace.project, stages),
        *([SHALLOW_NOTE] if is_cut else []),
        *([future_note(digests.future)] if digests.future else []),
    )
    flawed = {address.variant for address, _ in copies} | {variant for variant, _ in flaws}
    flawed |= {path.split("/")[-2] for path in stale}
    found = {} if commit else _newly_kept(scene, judged, judge.outcomes, flawed)
    return Plan(stages=tuple(stages), copies=tuple(one for one, _ in copies), notes=notes, against=commit), found


def _oids(kept: Mapping[str, Kept]) -> dict[Address, str]:
    return {address: oid for variant in kept.values() for address, oid in variant.oids.items()}


def _estimated(
    scene: _Scene, judged: Sequence[PlannedStage], outcomes: Mapping[Address, Outcome]
) -> Sequence[PlannedStage]:
    """The stages, with what those cost that are not kept."""
    if all(one.verdict == "keep" for one in judged):
        return judged
    by_kind: dict[str, list[Address]] = {}
    for one in (*judged, *(one for variant in scene.kept.values() for one in variant.stages)):
        by_kind.setdefault(one.kind, []).append(one.address)
    alike = {kind: sorted(addresses) for kind, addresses in by_kind.items()}  # the same ones, whatever was kept
    estimates = Estimates(scene.root, scene.graph, scene.evidence, read_runner(scene.root), alike)
    return [one if one.verdict == "keep" else replace(one, estimate=estimates.of(one, outcomes)) for one in judged]


def _newly_kept(
    scene: _Scene, judged: Iterable[PlannedStage], outcomes: Mapping[Address, Outcome], flawed: Collection[str]
) -> dict[str, Kept]:
    """Variants of which every stage is kept and on which nothing is noted."""
    stages: dict[str, list[PlannedStage]] = {variant: [] for variant in scene.variants}
    for one in judged:
        stages[one.address.variant].append(one)
    found: dict[str, Kept] = {}
    for variant, own in stages.items():
        if variant not in flawed and all(one.verdict == "keep" for one in own):
            edges = [edge for one in own for edge in scene.graph[one.address].edges]
            data = {edge.source.path: None for edge in edges if isinstance(edge.source, DataFile)}
            oids = {one.address: outcomes[one.address].oid for one in own}
            found[variant] = Kept(stages=tuple(own), oids=oids, data=tuple(data))
    return found
