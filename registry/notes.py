"""What changed between two releases of a variant, in lines for people: from records and checks alone, no I/O.

The lines go into the release's tag, so they are short, printable, and begin with ``- `` or a letter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from registry.canonical import encode
from registry.counted import counted
from registry.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from registry.canonical import JSON
    from registry.gate import Judgement
    from registry.record import Record, RecordInput

__all__ = ["Before", "Bounds", "notes_of"]

Bounds: TypeAlias = "Mapping[tuple[str, str], str]"
"""Bounds in words, by stage and metric."""

_MAX_LINES = 200
_MAX_CHARACTERS = 400
_MAX_VALUE_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """The release before.

    Attributes:
        version: Its version.
        stage: The stage that it released.
        records: Records at its commit, by stage.
        bounds: The bounds that it had to keep.
    """

    version: str
    stage: str
    records: Mapping[str, Record]
    bounds: Bounds


def notes_of(
    records: Mapping[str, Record], stage: str, judgements: Sequence[Judgement], before: Before | None
) -> tuple[str, ...]:
    """What is new in a release.

    Args:
        records: Records of what is released now, by stage.
        stage: The stage that is released.
        judgements: What its checks said.
        before: The release before; ``None`` for a first one.
    """
    lines = [f"Since {before.version}" if before is not None else "First release"]
    old = before.records if before is not None else {}
    bounds = {(one.stage, one.metric): one.bound for one in judgements}
    lines += _artifact(records[stage], old.get(before.stage) if before is not None else None)
    if before is not None:
        lines += _stages(records, old)
    lines += _inputs(records, old)
    lines += _metrics(records, old, bounds)
    if before is not None:
        lines += _checks(bounds, before.bounds)
    return tuple(_line(one) for one in _at_most(lines))


def _artifact(new: Record, old: Record | None) -> Iterator[str]:
    """The released artifact: its size, and what of it has to be fetched by who has the one before."""
    now = new.artifact
    size = f"{now.type} {now.digest}, {format_size(now.size_bytes)} in {counted(len(now.files), 'file')}"
    if old is None:
        yield f"- artifact: {size}"
        return
    known = {file.digest for file in old.artifact.files}
    fresh = [file for file in now.files if file.digest not in known]
    fetched = f"{len(fresh)} of them new, {format_size(sum(file.size_bytes for file in fresh))}"
    yield f"- artifact: {size}, {fetched}; before: {format_size(old.artifact.size_bytes)}"
    if now.weights_digest is not None and now.weights_digest == old.artifact.weights_digest:
        yield f"- weights: the same, {now.weights_digest}"


def _stages(new: Mapping[str, Record], old: Mapping[str, Record]) -> Iterator[str]:
    """Stages that came, went or do something else; those that were only built again are named together."""
    yield from (f"- stage {name}: new, {new[name].kind}" for name in sorted(set(new) - set(old)))
    yield from (f"- stage {name}: gone" for name in sorted(set(old) - set(new)))
    followed: list[str] = []
    for name in sorted(set(new) & set(old)):
        lines = [*_settings(name, new[name], old[name])]
        yield from lines
        if not lines and new[name].artifact.digest != old[name].artifact.digest:
            followed.append(name)
    if followed:
        yield f"- other bytes, since what they are made from changed: {', '.join(followed)}"


def _settings(name: str, new: Record, old: Record) -> Iterator[str]:
    if new.kind != old.kind:
        yield f"- stage {name}: kind {old.kind} -> {new.kind}"
        return
    if new.action.recipe != old.action.recipe:
        yield f"- stage {name}: recipe {old.action.recipe} -> {new.action.recipe}"
    now, then = _flat({**new.action.settings}), _flat({**old.action.settings})
    for key in sorted({*now, *then}):
        if now.get(key) != then.get(key):
            yield f"- stage {name}: {key} {then.get(key, 'absent')} -> {now.get(key, 'absent')}"


def _inputs(new: Mapping[str, Record], old: Mapping[str, Record]) -> Iterator[str]:
    """What came in from outside the variant, by digest: new, replaced, or no longer used."""
    now, then = _outside(new), _outside(old)
    for source in sorted({*now, *then}):
        got, had = now.get(source), then.get(source)
        if got is not None and had is None:
            yield f"- input {source}: {'new, ' if old else ''}{got.digest}"
        elif had is not None and got is None:
            yield f"- input {source}: no longer used"
        elif got is not None and had is not None and got.digest != had.digest:
            yield f"- input {source}: {had.digest} -> {got.digest}"


def _outside(records: Mapping[str, Record]) -> dict[str, RecordInput]:
    own = {record.ref for record in records.values()}
    inputs = (one for record in records.values() for one in record.inputs)
    return {one.source: one for one in inputs if one.source not in own}


def _metrics(new: Mapping[str, Record], old: Mapping[str, Record], bounds: Bounds) -> Iterator[str]:
    for stage, label in sorted((stage, label) for stage, record in new.items() for label in record.metrics):
        measured = new[stage].metrics[label]
        before = old[stage].metrics.get(label, {}).get("value") if stage in old else None
        value = measured.get("value")
        got = "not measured" if value is None else f"{value:g}"
        change = got if before is None else f"{before:g} -> {got}"
        against = f", {measured['against']:g} for what it is compared with" if "against" in measured else ""
        bound = bounds.get((stage, label), "")
        yield f"- metric {stage}.{label}: {change}{against}" + (f"; must be {bound}" if bound else "; no bound")


def _checks(new: Bounds, old: Bounds) -> Iterator[str]:
    """Bounds that were made, moved or dropped: a looser one is how a worse model gets out."""
    for key in sorted({*new, *old}):
        if new.get(key) != old.get(key):
            yield f"- check {'.'.join(key)}: {old.get(key, 'none')} -> {new.get(key, 'none')}"


def _flat(value: JSON, key: str = "") -> dict[str, str]:
    """Settings by dotted key, each in one short text."""
    if isinstance(value, dict) and value:
        inner = [_flat(one, f"{key}.{name}" if key else name) for name, one in value.items()]
        return {name: text for table in inner for name, text in table.items()}
    text = encode(value).decode()
    return {key: text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[:_MAX_VALUE_CHARACTERS]}..."}


def _at_most(lines: list[str]) -> Iterable[str]:
    if len(lines) <= _MAX_LINES:
        return lines
    return [*lines[:_MAX_LINES], f"- and {len(lines) - _MAX_LINES} lines more"]


def _line(text: str) -> str:
    """One line, whatever a record of others says in it."""
    safe = "".join(one if one.isprintable() else " " for one in text)
    return safe if len(safe) <= _MAX_CHARACTERS else f"{safe[:_MAX_CHARACTERS]}..."
