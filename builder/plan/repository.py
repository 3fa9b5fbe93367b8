"""The plan of a whole repository; variants that are known to need nothing are not even loaded."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.plan.memo import Memo
from builder.plan.notes import notes_of_tree
from builder.plan.unchanged import Unchanged
from builder.plan.values import Plan, sorted_by_needs
from registry.errors import NotFoundError
from registry.history import Repository
from registry.record import BASES, manifest_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from builder.plan.unchanged import Kept
    from builder.plan.values import PlannedStage, PlannedVariant

__all__ = ["plan_repository"]


def plan_repository(
    root: Path, variants: Collection[str] = (), *, against: str = "", since: str = "", describe: bool = False
) -> Plan:
    """What a build would do.

    Args:
        root: Root of the repository.
        variants: Those that matter, with what they are made from; all if none.
        against: A commit whose locks and records are taken instead of the work tree's; empty for those.
        since: A commit whose manifests are compared with; empty for ``against``, else for what is checked out.
        describe: Whether to say what changes in the variants beside what their stages do.

    Raises:
        NotFoundError: There is no such commit or variant.
        InvalidError: A manifest or a lock is at fault, or git cannot read the history.
        MachineError: git is missing.
    """
    with _without_collector():
        plan, names = _plan_against(root, against) if against else _plan_now(root)
    _check_names(variants, names)
    if describe:
        plan = replace(plan, variants=_described(root, plan, names, since or against))
    return _narrowed(plan, variants) if variants else plan


def _plan_now(root: Path) -> tuple[Plan, tuple[str, ...]]:
    """By the work tree's own locks, with the names of all variants."""
    memo = Memo(root)
    unchanged = Unchanged(root, memo)
    if not unchanged.changed:
        plan = Plan(stages=_sorted(unchanged.kept, ()), notes=tuple(notes_of_tree(root)))
        return plan, unchanged.names
    from builder.graph import build_graph  # noqa: PLC0415 - all that knows manifests costs as much as the rest
    from builder.load import load  # noqa: PLC0415
    from builder.plan.plan import plan_graph  # noqa: PLC0415

    workspace = load(root, only=unchanged.changed)
    plan, kept = plan_graph(root, workspace, build_graph(workspace), against="", memo=memo, kept=unchanged.kept)
    unchanged.keep(kept)
    return replace(plan, stages=_sorted(unchanged.kept, plan.stages)), unchanged.names


def _plan_against(root: Path, against: str) -> tuple[Plan, tuple[str, ...]]:
    """By the locks of a commit, with the names of all variants."""
    from builder.graph import build_graph  # noqa: PLC0415 - as above
    from builder.load import load  # noqa: PLC0415
    from builder.plan.plan import make_plan  # noqa: PLC0415

    workspace = load(root)
    plan = make_plan(root, workspace, build_graph(workspace), against=against)
    return replace(plan, stages=_sorted({}, plan.stages)), (BASES, *workspace.manifests)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep Python from looking for circles among millions of values that all stay: a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _described(root: Path, plan: Plan, names: Collection[str], since: str) -> tuple[PlannedVariant, ...]:
    """What changes in the variants since a commit; nothing where there is no commit at all."""
    from builder.load import load  # noqa: PLC0415 - as above
    from builder.plan.variants import Before, describe_variants, read_before  # noqa: PLC0415
    from registry.signers import read_published  # noqa: PLC0415

    repository = Repository(root)
    before = Before(names=frozenset(names), documents={})
    if since or _has_commit(repository):
        before = read_before(repository, repository.resolve(since or "HEAD"))
    touched = {one.address.variant for one in plan.stages if one.verdict != "keep"}
    concerned = sorted((touched | before.changed | (set(names) - before.names)) & set(names))
    if not (concerned or before.documents or before.names - set(names)):
        return ()
    workspace = load(root, only=[BASES, *concerned])
    published = read_published(repository, *{*concerned, *before.changed})
    return describe_variants(workspace, plan.stages, before, names, published)


def _has_commit(repository: Repository) -> bool:
    try:
        repository.head()
    except NotFoundError:
        return False
    return True


def _check_names(variants: Iterable[str], names: Collection[str]) -> None:
    for variant in variants:
        if variant not in names:
            raise NotFoundError(
                f"there is no variant {variant!r}",
                where=str(manifest_file(variant)),
                mend="name one that `varietal plan` without names lists, or write its manifest",
            )


def _narrowed(plan: Plan, variants: Collection[str]) -> Plan:
    """The stages of some variants, and all that they are made from."""
    by_address = {one.address: one for one in plan.stages}
    wanted = {one.address for one in plan.stages if one.address.variant in variants}
    for one in reversed(plan.stages):  # each stands after those that it needs
        if one.address in wanted:
            wanted |= {need for need in one.needs if need in by_address}
    names = {address.variant for address in wanted}
    return replace(
        plan,
        stages=tuple(one for one in plan.stages if one.address in wanted),
        copies=tuple(one for one in plan.copies if one in wanted),
        variants=tuple(one for one in plan.variants if one.name in names or one.state == "removed"),
    )


def _sorted(kept: Mapping[str, Kept], others: Iterable[PlannedStage]) -> tuple[PlannedStage, ...]:
    """All stages by variant, but each after those that it reads from."""
    stages = [one for variant in kept.values() for one in variant.stages]
    by_address = {one.address: one for one in (*stages, *others)}
    by_variant = sorted(by_address.values(), key=lambda one: (one.address.variant != BASES, one.address.variant))
    order = sorted_by_needs({one.address: one.needs for one in by_variant})
    return tuple(by_address[address] for address in order)
