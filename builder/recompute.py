"""Proves weights by making them again: every stage of a lineage that computes weights from weights, from its inputs.

For each such stage, the ones that others build on first:

1. Its inputs are fetched by the digests of its record, and hashed.
2. The stage function runs in a folder of its own, with the settings of the recorded action.
3. What comes out must have the artifact digest of the record: every file, byte for byte.

Where the bytes may depend on the machine, which the record says, another digest proves nothing, and is told apart.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from builder.kinds import KINDS
from builder.manifest import Stage
from builder.obtain import obtain
from builder.runner import read_runner
from builder.stage import Context, Input
from builder.tables import restore
from registry.artifact import Artifact
from registry.errors import DigestMismatchError, NotFoundError, RefusedError
from registry.lineage import ancestors, ancestors_of_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from registry.canonical import JSON
    from registry.digest import Digest
    from registry.index import Index
    from registry.record import Record, RecordInput
    from registry.store import Store

__all__ = ["Recomputed", "recompute"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recomputed:
    """One stage that was computed again.

    Attributes:
        ref: The stage, as its record names it.
        recorded: The artifact digest of the record.
        got: What came out.
        depends_on: What else the bytes depend on, by the record.
    """

    ref: str
    recorded: Digest
    got: Digest
    depends_on: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the same bytes came out."""
        return self.got == self.recorded

    def to_json(self) -> dict[str, JSON]:
        """Row of the JSON form."""
        return {
            "ref": self.ref,
            "recorded": str(self.recorded),
            "got": str(self.got),
            "holds": self.holds,
            "depends_on": list(self.depends_on),
        }

    def __str__(self) -> str:
        """One line."""
        if self.holds:
            return f"{self.ref}: computed again from its recorded inputs, {self.got}"
        if self.depends_on:
            why = " and ".join(self.depends_on)
            return f"{self.ref}: this machine gives {self.got}, the record says {self.recorded}; it depends on {why}"
        return f"{self.ref}: DIFFERS, {self.got} came out, the record says {self.recorded}"


def recompute(
    root: Path, record: Record, *, index: Index, store: Store, say: Callable[[str], None]
) -> tuple[Recomputed, ...]:
    """Compute every weights stage of an artifact's lineage again.

    Args:
        root: Root of the repository.
        record: The artifact, proven by the caller.
        index: Records of the work tree and of git.
        store: Local content store.
        say: Tells the person at the terminal.

    Returns:
        One entry a stage, those that others build on first; the caller looks whether they hold.

    Raises:
        NotFoundError: No stage of the lineage computes weights from weights, or an input's bytes are nowhere.
        RefusedError: A stage ran under another recipe than this tool has.
        InvalidError: A recorded action does not fit this tool.
        MachineError: Disk or memory.
    """
    stages = list(_stages(record, index))
    if not stages:
        raise NotFoundError(
            f"nothing in the lineage of {record.ref} computes weights from weights",
            where=record.ref,
            mend="verify it without --recompute; trainings are not computed again",
        )
    return tuple(_again(root, one, index=index, store=store, say=say) for one in stages)


def _stages(record: Record, index: Index) -> Iterator[Record]:
    """The weights stages of a lineage, the artifact itself last."""
    lineage = ancestors(record, lambda digest: [one.record for one in index.by_artifact(digest)])
    seen: set[Digest] = set()
    waiting = [(lineage.start, False)]
    while waiting:
        # A stage that changes nothing gives its own input: what was met before is not waited for.
        digest, ready = waiting.pop()
        node = lineage.nodes[digest]
        if not ready:
            if digest not in seen:
                seen.add(digest)
                waiting += [(digest, True), *((made, False) for _, made in reversed(node.next))]
            continue
        if node.record is not None and node.record.kind in KINDS and KINDS[node.record.kind].weights:
            yield node.record


def _again(root: Path, record: Record, *, index: Index, store: Store, say: Callable[[str], None]) -> Recomputed:
    kind = KINDS[record.kind]
    if record.action.recipe != kind.recipe:
        raise RefusedError(
            f"recipe {record.action.recipe} of kind {record.kind!r} made it, this tool has {kind.recipe}",
            where=record.ref,
            mend=f"install the version of this tool that has recipe {record.action.recipe}",
        )
    say(f"{record.ref}: {record.kind}, from {len(record.inputs)} inputs")
    place = root / ".varietal" / "recompute"
    place.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=place))
    try:
        inputs = tuple(
            _input(root, record, one, scratch / f"input-{number}", index=index, store=store, say=say)
            for number, one in enumerate(record.inputs)
        )
        work, out = scratch / "work", scratch / "out"
        work.mkdir()
        out.mkdir()
        context = Context(
            settings=_settings(record),
            inputs=inputs,
            work=work,
            out=out,
            root=root,
            runner=read_runner(root),
            say=say,
        )
        outcome = kind.load()(context)
        got = Artifact.from_folder(out, outcome.type, outcome.written).digest
    finally:
        shutil.rmtree(scratch)
    return Recomputed(
        ref=record.ref, recorded=record.artifact.digest, got=got, depends_on=record.depends_on or outcome.depends_on
    )


def _input(
    root: Path,
    record: Record,
    one: RecordInput,
    folder: Path,
    *,
    index: Index,
    store: Store,
    say: Callable[[str], None],
) -> Input:
    """An input by its recorded digest, fetched and hashed."""
    artifact = obtain(root, one.digest, one.source, folder, index=index, store=store, say=say)
    return Input(
        role=one.role,
        name=one.name,
        path=folder,
        digest=one.digest,
        artifact=artifact,
        format="",
        settings=_said(record, one),
        source=one.source,
        ancestors=ancestors_of_model(index, one.digest) if one.role == "from" else frozenset(),
    )


def _said(record: Record, one: RecordInput) -> dict[str, JSON]:
    """What the stage says on an input alone.

    Raises:
        DigestMismatchError: The action does not know the input.
    """
    found = [each for each in record.action.inputs if (each.role, each.digest) == (one.role, one.digest)]
    same = [each for each in record.inputs if (each.role, each.digest) == (one.role, one.digest)]
    if len(found) != len(same):
        raise DigestMismatchError(
            f"the action has {len(found)} inputs {one.role} {one.digest}, the record {len(same)}",
            where=record.ref,
            mend="the record was edited; restore it from git or build the stage again",
        )
    return dict(found[same.index(one)].settings)


def _settings(record: Record) -> object:
    """The stage's table, with names that point at nothing: functions read inputs, not names."""
    tables: dict[str, type[Any]] = {
        str(one.default): table for table in get_args(Stage) for one in fields(table) if one.name == "kind"
    }
    table = tables[record.kind]
    absent = [one.name for one in fields(table) if one.name not in record.action.settings]
    empty: dict[str, object] = {"kind": record.kind, "adapters": {}, "models": {}, "order": (), "layers": ()}
    outside = {name: empty.get(name, "") for name in absent}
    return restore(table, record.action.settings, where=record.ref, **outside)
