"""What changes in variants beside what their stages do: their manifests, what is made from them, what was released."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from builder.plan.changes import changed_keys
from builder.plan.values import PlannedVariant
from registry import yaml12
from registry.errors import InvalidError
from registry.gate import judge
from registry.record import BASES, manifest_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.address import Address
    from builder.load import Workspace
    from builder.plan.values import PlannedStage
    from registry.history import Repository
    from registry.published import Published

__all__ = ["Before", "describe_variants", "read_before"]

_MOST_LINES = 30
_ALIKE = 0.5  # of the stages, from where on a variant counts as renamed


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """What a commit declares.

    Attributes:
        names: Its variants.
        documents: Values of the files that say something else now, or are gone, by path.
    """

    names: frozenset[str]
    documents: Mapping[str, object]

    @property
    def changed(self) -> frozenset[str]:
        """Variants that are declared otherwise now, or not any more."""
        return frozenset(name for name in self.names if str(manifest_file(name)) in self.documents)


def read_before(repository: Repository, commit: str) -> Before:
    """What a commit declares, as far as the work tree declares something else.

    Args:
        repository: The repository.
        commit: Its id.

    Raises:
        InvalidError: git cannot read the commit.
    """
    done = repository.ask("ls-tree", "-r", "-z", "--name-only", commit, "--", "models")
    if done.returncode:
        raise InvalidError(f"git cannot list commit {commit}", where=str(repository.root), mend="run `git fsck`")
    paths = [path.split("/") for path in done.stdout.decode(errors="surrogateescape").split("\0")]
    names = sorted(path[1] for path in paths if len(path) == 3 and path[2] == "model.yaml")  # noqa: PLR2004
    asked = [str(manifest_file(name)) for name in (BASES, *names)]
    documents: dict[str, object] = {}
    for path, data in zip(asked, repository.read_blobs([f"{commit}:{path}" for path in asked]), strict=True):
        file = repository.root / path
        now = file.read_bytes() if file.is_file() else None
        if data is not None and data != now:
            before = _value(data, path)
            if now is None or before != _value(now, path):
                documents[path] = before
    return Before(names=frozenset(names), documents=documents)


def describe_variants(
    workspace: Workspace, stages: Iterable[PlannedStage], before: Before, names: Iterable[str], published: Published
) -> tuple[PlannedVariant, ...]:
    """One entry for each variant that is declared otherwise than before, or of which something is built.

    Args:
        workspace: What is declared now, of those variants at least.
        stages: The planned stages, all of them.
        before: What was declared.
        names: Every variant that is declared now.
        published: Releases and channels.
    """
    planned, now = list(stages), set(names) - {BASES}
    touched = {one.address.variant for one in planned if one.verdict != "keep"}
    removed, new = before.names - now, now - before.names
    renamed = _renamed(workspace, before, removed, new)
    concerned = (touched | before.changed | new) - {BASES} - set(renamed.values())
    found = [_bases(workspace, before)] if BASES in touched or str(manifest_file(BASES)) in before.documents else []
    for name in sorted(concerned):
        old = renamed.get(name, name)
        changes = _changes(before.documents.get(str(manifest_file(old))), workspace, name)
        found.append(
            PlannedVariant(
                name=name,
                state=_state(name, removed, new, renamed, changes),
                renamed_from=renamed.get(name, ""),
                changes=changes,
                checks=() if name in removed else _checks(workspace, name),
                affects=_made_from(name, planned),
                releases=_releases(old, published),
            )
        )
    return tuple(found)


def _bases(workspace: Workspace, before: Before) -> PlannedVariant:
    changes = _changes(before.documents.get(str(manifest_file(BASES))), workspace, BASES)
    return PlannedVariant(name=BASES, state="changed" if changes else "same", changes=changes)


def _state(
    name: str, removed: frozenset[str], new: set[str], renamed: Mapping[str, str], changes: Sequence[str]
) -> Literal["new", "removed", "renamed", "changed", "same"]:
    if name in removed:
        return "removed"
    if name in renamed:
        return "renamed"
    if name in new:
        return "new"
    return "changed" if changes else "same"


def _renamed(workspace: Workspace, before: Before, removed: Iterable[str], new: Iterable[str]) -> dict[str, str]:
    """Old name by new one: of variants that came and variants that went, those that are most alike."""
    scores = sorted(
        (
            (-_likeness(before.documents.get(str(manifest_file(old))), _document(workspace, name)), name, old)
            for name in new
            for old in removed
        ),
    )
    found: dict[str, str] = {}
    for score, name, old in scores:
        if -score >= _ALIKE and name not in found and old not in found.values():
            found[name] = old
    return found


def _likeness(before: object, now: object) -> float:
    """Share of the stages that are the same, by name and table."""
    old, new = _stages(before), _stages(now)
    same = sum(name in new and new[name] == stage for name, stage in old.items())
    return same / max(1, len(old), len(new))


def _stages(document: object) -> Mapping[str, object]:
    stages = document.get("stages") if isinstance(document, dict) else None
    return stages if isinstance(stages, dict) else {}


def _document(workspace: Workspace, name: str) -> object:
    return workspace.documents.get(str(manifest_file(name)))


def _changes(before: object, workspace: Workspace, name: str) -> tuple[str, ...]:
    """How a file differs from what it was, a line a key; nothing where it does not, or one of the two is not there."""
    now = _document(workspace, name)
    if before is None or now is None:
        return ()
    lines = list(changed_keys("", before, now))
    more = len(lines) - _MOST_LINES
    return (*lines[:_MOST_LINES], *([f"and {more} more"] if more > 0 else []))


def _checks(workspace: Workspace, name: str) -> tuple[str, ...] | None:
    """What the gate asks, by the manifest."""
    manifest = workspace.manifests.get(name)
    if manifest is None or manifest.checks is None:
        return None
    judged = judge(manifest.checks, {})
    return tuple(f"{one.metric} of {one.stage} must be {one.bound}" for one in judged)


def _made_from(name: str, stages: Iterable[PlannedStage]) -> tuple[str, ...]:
    """Other variants of which something would be built since this one is; each stage stands after those it needs."""
    reached: set[Address] = set()
    for one in stages:
        if one.verdict != "keep" and (one.address.variant == name or reached.intersection(one.needs)):
            reached.add(one.address)
    return tuple(sorted({address.variant for address in reached} - {name}))


def _releases(name: str, published: Published) -> tuple[str, ...]:
    """The newest release of a variant, and what its channels point at."""
    releases = published.releases.get(name, ())
    channels = published.channels(name)
    newest = [f"{name}@{releases[-1].version} is the newest release"] if releases else []
    return (*newest, *(f"{name}#{channel} is {version}" for channel, version in channels.items()))


def _value(data: bytes, path: str) -> object:
    """The value of a document; its text where it cannot be read: an old one may have faults."""
    try:
        return yaml12.load(data, path).value
    except InvalidError:
        return data.decode(errors="replace")
