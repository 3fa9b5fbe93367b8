"""Moves a repository to the recipes of this tool: says what that reruns, and edits params.yaml."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.graph import build_graph
from builder.kinds import KINDS
from builder.load import load
from builder.manifest import parse_project
from builder.shapes import nearest
from builder.start.recipes import Rerun, faults, raise_recipes, rerun, revisions
from builder.start.schemas import stale_schemas
from builder.work import write_file
from registry import yaml12
from registry.errors import InvalidError, NotFoundError
from registry.record import BASES, manifest_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from builder.load import Workspace
    from builder.plan.plan import Plan
    from builder.start.recipes import Revision
    from registry.canonical import JSON

__all__ = ["Upgrade", "check_recipes", "plan_upgrade", "upgrade", "write_upgrade"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Upgrade:
    """What an upgrade changes.

    Attributes:
        raised: Kinds whose recipe goes up.
        added: Kinds that params.yaml does not name yet; adding them reruns nothing.
        rerun: Stages that are built again, if they were built.
        schemas: Schemas for editors that are written anew, with their texts.
    """

    raised: tuple[Revision, ...]
    added: tuple[Revision, ...]
    rerun: Rerun
    schemas: Mapping[str, str]

    @property
    def paths(self) -> tuple[str, ...]:
        """Files that change."""
        params = (str(manifest_file(BASES)),) if self.raised or self.added else ()
        return (*params, *self.schemas)

    def to_json(self) -> dict[str, JSON]:
        """What is changed; part of ``varietal upgrade --json``."""
        return {
            "raised": [one.to_json() for one in self.raised],
            "added": [one.to_json() for one in self.added],
            "paths": [*self.paths],
        }

    def lines(self) -> list[str]:
        """What changes."""
        lines = [f"{one.kind}: recipe {one.pinned} -> {one.tool}" for one in self.raised]
        lines += [f"{one.kind}: recipe {one.tool}, which was not pinned" for one in self.added]
        lines += [f"{path}: the schema of this tool" for path in self.schemas]
        return lines or ["every recipe is this tool's: nothing to do"]


def check_recipes(root: Path, workspace: Workspace) -> tuple[Revision, ...]:
    """The recipes that are older than this tool's.

    Raises:
        InvalidError: Some are newer: this tool is too old for the repository.
    """
    found = revisions(workspace.project)
    if any(one.is_newer for one in found):
        path = manifest_file(BASES)
        document = yaml12.load((root / path).read_bytes(), str(path))
        raise InvalidError.from_faults(faults(found, document.lines))
    return tuple(one for one in found if one.is_older)


def upgrade(root: Path, kinds: Sequence[str]) -> Upgrade:
    """What an upgrade changes; nothing is written.

    Args:
        root: Root of the repository.
        kinds: The kinds to move; empty for all.

    Raises:
        InvalidError: A manifest is at fault, or a recipe is newer than this tool's.
        NotFoundError: There is no such kind.
    """
    _check_kinds(kinds)
    workspace = load(root)
    older = _chosen(check_recipes(root, workspace), kinds)
    return Upgrade(
        raised=older,
        added=_chosen((one for one in revisions(workspace.project) if not one.pinned), kinds),
        rerun=rerun(build_graph(workspace), {one.kind for one in older}),
        schemas=stale_schemas(root),
    )


def plan_upgrade(root: Path, change: Upgrade) -> Plan:
    """What a build would do once the recipes are raised, with the stages that raising them touches alone.

    Args:
        root: Root of the repository, as it is before :func:`write_upgrade`.
        change: What is changed.

    Raises:
        InvalidError: params.yaml cannot be edited safely, or a lock cannot be read.
        MachineError: git is missing.
    """
    from builder.plan.plan import make_plan  # noqa: PLC0415 - not needed where no recipe is older

    path = str(manifest_file(BASES))
    workspace = load(root)
    value = yaml12.load(raise_recipes((root / path).read_bytes().decode(), (*change.raised, *change.added)), path).value
    raised = replace(workspace, project=parse_project(value), documents={**workspace.documents, path: value})
    plan = make_plan(root, raised, build_graph(raised))
    touched = {*change.rerun.run, *change.rerun.maybe}
    return replace(plan, stages=tuple(one for one in plan.stages if one.address in touched), notes=())


def write_upgrade(root: Path, change: Upgrade) -> None:
    """Write what an upgrade changes.

    Raises:
        InvalidError: params.yaml cannot be edited safely; nothing was written.
    """
    path = root / manifest_file(BASES)
    before = path.read_bytes().decode()
    after = raise_recipes(before, (*change.raised, *change.added))
    if after != before:
        write_file(path, after.encode())
    for name, text in change.schemas.items():
        write_file(root / name, text.encode())


def _chosen(found: Iterable[Revision], kinds: Sequence[str]) -> tuple[Revision, ...]:
    return tuple(one for one in found if not kinds or one.kind in kinds)


def _check_kinds(kinds: Sequence[str]) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise NotFoundError(
                f"there is no kind {kind!r}", where="varietal upgrade", mend=nearest(kind, KINDS, "kinds")
            )
