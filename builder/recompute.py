"""Proves weights by making them again: every stage of a lineage that computes weights from weights, from its inputs.

The lineage is walked through records that the checked-out history vouches for (:mod:`registry.vouched`), those that
others build on first. Each of its stages has a verdict:

``same``
    Its inputs were fetched by the digests of its record and hashed, its function ran in a folder of its own with the
    settings of the recorded action, and the very bytes of the record came out. What the record says of them holds, too:
    the listing, the weights digest, the weights digests of the inputs, the components, what has another number than in
    an input, the metrics, and what else the bytes depend on. So does an import from a folder of this repository that
    has its pin still, and a pinned release whose digest is that of the pin.
``differs``
    Something of that is otherwise; each field is named.
``undecided``
    It cannot be told here: other bytes came out, but by the stage's own word they depend on the machine; or this tool
    has another recipe of the kind; or a training was done on another machine, or with other versions.
``recorded``
    It was not computed, and rests on its record: a training that was not asked for, an import from outside, or there is
    no record at all.

What a record says of its making, which is no function of the bytes (environment, device, duration, memory, notes, names
and places of its inputs), is not looked at.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, get_args

from builder.alike import runner_like, unlike
from builder.call import call
from builder.environment import processor
from builder.graph import reference_fields
from builder.kinds import KINDS
from builder.load import load
from builder.manifest import BlendStage, FolderAdapter, FolderBase, PretrainStage, Stage
from builder.origins import pin_of, walk
from builder.proof import Mismatch, Recomputed, StageProof, judge, row
from builder.recorded_inputs import Fetcher
from builder.room import check_room
from builder.runner import read_runner
from builder.scratch import scratch_folder
from builder.sources import folder_pin
from builder.stage import Context
from builder.tables import restore
from builder.train_stages import TrainStage
from builder.work import full_disk
from registry.artifact import Artifact
from registry.errors import Error, MachineError, NotFoundError
from registry.history import Repository
from registry.record import ArtifactSummary
from registry.vouched import Vouched

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.graph import ImportSource
    from builder.origins import Step
    from builder.runner import Runner
    from builder.stage import Input
    from registry.index import Index
    from registry.record import Record
    from registry.store import Store

__all__ = ["recompute"]

_LAYERS: Final = re.compile(r"\d{1,4}(?:-\d{1,4})?")
_TABLES: Final[Mapping[str, type[Any]]] = {
    str(one.default): table for table in get_args(Stage) for one in fields(table) if one.name == "kind"
}
_TRAININGS: Final = frozenset(
    kind for kind, table in _TABLES.items() if table in {PretrainStage, *get_args(TrainStage)}
)


def recompute(
    root: Path,
    record: Record,
    *,
    index: Index,
    store: Store,
    say: Callable[[str], None],
    trainings: bool = False,
) -> Recomputed:
    """Compute every weights stage of an artifact's lineage again.

    Args:
        root: Root of the repository.
        record: The artifact, proven by the caller.
        index: Records of the work tree and of git.
        store: Local content store.
        say: Tells the person at the terminal.
        trainings: Whether trainings are done again, too, where this machine is like theirs.

    Returns:
        A verdict for each stage of the lineage; the caller looks what they are.

    Raises:
        NotFoundError: No stage of the lineage can be computed here, or an input's bytes are nowhere.
        InvalidError: A recorded action does not fit this tool.
        MachineError: Disk or memory.
    """
    believed = Vouched(Repository(root), index)
    fetcher = Fetcher(root=root, index=index, store=store, believed=believed, say=say)
    bench = _Bench(root=root, fetcher=fetcher, say=say, trainings=trainings)
    found = Recomputed(stages=tuple(_prove(bench, step) for step in walk(record, believed)))
    if all(one.verdict == "recorded" for one in found.stages):
        reasons = "; ".join(f"{one.ref}: {one.reason}" for one in found.stages)
        raise NotFoundError(
            f"nothing in the lineage of {record.ref} can be computed again ({reasons})",
            where=record.ref,
            mend="verify it without --recompute",
        )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bench:
    """Where and with what stages are computed."""

    root: Path
    fetcher: Fetcher
    say: Callable[[str], None]
    trainings: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Watched(Context[object]):
    """A context that keeps which inputs were asked for, by their place."""

    used: set[int] = field(default_factory=set)

    def all(self, role: str) -> tuple[Input, ...]:
        """Every input of a role."""
        found = Context.all(self, role)
        self.used.update(place for place, one in enumerate(self.inputs) if one in found)
        return found

    def find(self, role: str) -> Input | None:
        """The first input of a role, and no other one."""
        found = Context.all(self, role)
        if found:
            self.used.add(self.inputs.index(found[0]))
        return found[0] if found else None


def _prove(bench: _Bench, step: Step) -> StageProof:
    record = step.record
    if record is None:
        return StageProof(ref=step.ref, kind="", verdict="recorded", recorded=step.digest, reason=step.reason)
    told = _told(step, record, trainings=bench.trainings)
    if told is not None:
        return told
    if record.kind in _TRAININGS:
        return _trained_again(bench, record)
    if record.kind != "import":
        return _again(bench, record, _settings(record))
    source = _folder_of(bench.root, record)
    if source is None:
        pin = " ".join(str(value) for value in record.action.settings.values())
        return _recorded(record, f"what it was imported from is not in this repository as it was pinned ({pin})")
    return _again(bench, record, source)


def _told(step: Step, record: Record, *, trainings: bool) -> StageProof | None:
    """What can be said of a stage without computing it; ``None`` where it has to be computed."""
    kind, pin = KINDS.get(record.kind), pin_of(record)
    if "artifact" in pin:
        return _pinned(record, str(pin["artifact"]), step.source)
    if kind is None:
        return _undecided(record, f"this tool has no kind {record.kind!r}")
    if "hub" in pin:
        return _recorded(record, f"it was imported from the Hub: {pin['hub']} at {pin.get('revision')}")
    if reason := _left_alone(record.kind, trainings=trainings):
        return _recorded(record, reason)
    if (made := record.action.recipe) != kind.recipe:
        here = f"recipe {made} of kind {record.kind!r} made it, this tool has {kind.recipe}"
        return _undecided(record, f"{here}; a tool that has {made} can tell")
    return _other_inputs(record)


def _left_alone(kind: str, *, trainings: bool) -> str:
    """Why a kind is not computed again; empty where it is."""
    if kind in _TRAININGS:
        return "" if trainings else "a training is done again with --trainings only"
    return "" if kind == "import" or KINDS[kind].weights else f"a stage of kind {kind} is not computed again"


def _other_inputs(record: Record) -> StageProof | None:
    """What can be said where a record's inputs are not those of its action; ``None`` where they are."""
    done = Counter((one.role, str(one.digest)) for one in record.action.inputs)
    said = Counter((one.role, str(one.digest)) for one in record.inputs)
    if done == said:
        return None
    odd = Mismatch(field="inputs", recorded=_listed(said - done), got=f"{_listed(done - said)} by its action")
    return row(record, "differs", mismatches=(odd,))


def _listed(some: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{role} {digest}" for role, digest in sorted(some.elements())) or "nothing more"


def _pinned(record: Record, pin: str, source: Record | None) -> StageProof:
    if pin != str(record.artifact.digest):
        odd = Mismatch(field="artifact.digest", recorded=str(record.artifact.digest), got=f"{pin} by its pin")
        return row(record, "differs", mismatches=(odd,))
    if source is None:
        return _recorded(record, "the record of the release that it is pinned to is not in this history")
    if source.artifact != record.artifact:
        odd = Mismatch(field="artifact", recorded="something else", got=f"what {source.ref} says")
        return row(record, "differs", mismatches=(odd,))
    return row(record, "same", reason=f"it is {source.ref} by its pin")


def _undecided(record: Record, reason: str) -> StageProof:
    return row(record, "undecided", reason=reason)


def _recorded(record: Record, reason: str) -> StageProof:
    return row(record, "recorded", reason=reason)


def _trained_again(bench: _Bench, record: Record) -> StageProof:
    """A training, where device, versions and split are those of the record; anywhere else its bytes prove nothing."""
    on_cpu = record.device == processor()
    runner = runner_like(record, read_runner(bench.root), on_cpu=on_cpu)
    try:
        odd = unlike(record, runner)
    except MachineError:
        odd = f"device {record.device}, here no GPU"
    if odd:
        return _undecided(record, f"it was trained elsewhere: {odd}")
    return _again(bench, record, _settings(record), runner=runner)


def _again(bench: _Bench, record: Record, settings: Any, *, runner: Runner | None = None) -> StageProof:  # noqa: ANN401
    bench.say(f"{record.ref}: {record.kind}, from {len(record.inputs)} inputs")
    place = bench.root / ".varietal" / "recompute"
    with full_disk(record.ref), scratch_folder(place) as scratch:
        inputs = bench.fetcher.inputs(record, scratch)
        if isinstance(settings, BlendStage):
            settings = replace(settings, layers=_layers(inputs))
        check_room(bench.root, settings, inputs)
        work, out = scratch / "work", scratch / "out"
        work.mkdir()
        out.mkdir()
        context = _Watched(
            settings=settings,
            inputs=inputs,
            work=work,
            out=out,
            root=bench.root,
            runner=runner or read_runner(bench.root),
            say=bench.say,
        )
        outcome = call(record.kind, context, where=record.ref)
        got = ArtifactSummary.of(Artifact.from_folder(out, outcome.type, outcome.written))
    unused = tuple(one for place, one in enumerate(inputs) if place not in context.used)
    return judge(record, inputs, unused, outcome, got)


# What it is computed from


def _settings(record: Record) -> object:
    """The stage's table, with names that point at nothing: functions read inputs, not names.

    Raises:
        InvalidError: The action lacks a setting, has one that is unknown, or one that is out of its range.
    """
    table = _TABLES[record.kind]
    empty: dict[str, object] = {"kind": record.kind, "adapters": {}, "models": {}, "order": (), "layers": ()}
    outside = {name: empty.get(name, "") for name in reference_fields(table)}
    return restore(table, record.action.settings, record.ref, **outside)


def _layers(inputs: Sequence[Input]) -> tuple[Mapping[str, str], ...]:
    """Which layers a blend takes of which input, entry by entry: how large it becomes depends on that."""
    entries: dict[int, dict[str, str]] = {}
    for one in inputs:
        taken = one.settings.get("layers")
        for pair in taken if isinstance(taken, list) else []:
            match pair:
                case [int(entry), str(span)] if _LAYERS.fullmatch(span):
                    entries.setdefault(entry, {})[one.name] = span
    return tuple(entries[place] for place in sorted(entries))


def _folder_of(root: Path, record: Record) -> ImportSource | None:
    """The folder that an import came from, where it is in the repository and has its pin still."""
    try:
        workspace = load(root, only=record.variant)
        sources = [*workspace.project.bases.values()]
        adapters = [one for manifest in workspace.manifests.values() for one in manifest.adapters.values()]
        for one in [*sources, *adapters]:
            if isinstance(one, FolderBase | FolderAdapter) and str(one.sha256) == record.action.settings.get("sha256"):
                wanted = FolderAdapter if record.artifact.type == "adapter" else FolderBase
                if isinstance(one, wanted) and folder_pin(root / one.path) == one.sha256:
                    return one
    except (Error, OSError):
        return None
    return None
