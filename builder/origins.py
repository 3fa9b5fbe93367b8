"""The lineage of an artifact by records that are believed, stage by stage: what has to be proven of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.canonical import JSON
    from registry.digest import Digest
    from registry.lineage import Sightings
    from registry.record import Record, RecordInput

__all__ = ["Step", "pin_of", "walk"]

_FILES = frozenset({"data", "eval", "reward", "template"})  # roles of inputs that nothing here made


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A stage of the lineage, or an artifact that no record explains.

    Attributes:
        ref: How it is called.
        digest: Its artifact.
        record: How it was made; ``None`` where that is not known.
        reason: Why it is not known.
        source: Of a pinned release: its own record; ``None`` else, and where that is not known.
    """

    ref: str
    digest: Digest
    record: Record | None = None
    reason: str = ""
    source: Record | None = None


def walk(start: Record, believed: Sightings) -> Iterator[Step]:
    """Each record of a lineage once, what it was made from before it.

    It goes by records, not by artifacts: a stage that changes nothing has the artifact of the one before.
    """
    done: set[Digest] = set()
    path: set[Digest] = set()
    waiting: list[tuple[Record, Step | None]] = [(start, None)]
    while waiting:
        record, step = waiting.pop()
        if step is not None:
            path.remove(record.digest)
            yield step
            continue
        if record.digest in done:
            continue
        done.add(record.digest)
        path.add(record.digest)
        source = _released(record, believed) if "artifact" in pin_of(record) else None
        waiting.append((record, Step(ref=record.ref, digest=record.artifact.digest, record=record, source=source)))
        if source is not None:
            if source.digest not in path:
                waiting.append((source, None))
            continue
        for one in reversed([one for one in record.inputs if one.role not in _FILES]):
            known = [each.record for each in believed.by_artifact(one.digest)]
            origins = [each for each in _named_first(one, known) if each.digest not in path]
            if origins:
                waiting.append((origins[0], None))
            elif one.digest not in done:
                done.add(one.digest)
                reason = "its record was made from what it explains" if known else "no record here says how it was made"
                yield Step(ref=one.source, digest=one.digest, reason=reason)


def _named_first(one: RecordInput, records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.ref != one.source)


def pin_of(record: Record) -> Mapping[str, JSON]:
    """What an import's action pins: ``sha256`` of a folder, ``hub`` and ``revision``, or a release's ``artifact``."""
    return record.action.settings if record.kind == "import" else {}


def _released(record: Record, believed: Sightings) -> Record | None:
    """The record of the stage that a pinned release came from."""
    known = [one.record for one in believed.by_artifact(record.artifact.digest)]
    return next((one for one in known if "artifact" not in pin_of(one)), None)
