"""What was found when the stages of a lineage were computed again: values, and how a record is held against them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from registry.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.stage import Input, Outcome
    from registry.canonical import JSON
    from registry.digest import Digest
    from registry.record import ArtifactSummary, ComponentChange, Record

__all__ = ["Mismatch", "Recomputed", "StageProof", "Verdict", "judge", "row"]

Verdict: TypeAlias = Literal["same", "differs", "undecided", "recorded"]

_DIGITS: Final = 1e-5  # a metric's last digits tell the order of summing
_NOISE: Final = 1e-9  # and an error below this is rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """A field of a record that is not what was computed.

    Attributes:
        field: Where in the record, such as ``artifact.digest`` or ``metrics.error``.
        recorded: What the record says.
        got: What is so.
    """

    field: str
    recorded: str
    got: str

    def __str__(self) -> str:
        """One clause."""
        return f"{self.field} is {self.got}, the record says {self.recorded}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageProof:
    """One stage of a lineage.

    Attributes:
        ref: The stage, as its record names it.
        kind: Its kind; empty where there is no record.
        verdict: What was found.
        reason: Why it was not computed, or cannot be told; else empty.
        recorded: The artifact digest of the record.
        got: What came out; ``None`` where nothing was computed.
        mismatches: What differs.
        depends_on: What else the bytes depend on, by the stage's own word when it ran here.
    """

    ref: str
    kind: str
    verdict: Verdict
    recorded: Digest
    reason: str = ""
    got: Digest | None = None
    mismatches: tuple[Mismatch, ...] = ()
    depends_on: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """Row of the JSON form."""
        return {
            "ref": self.ref,
            "kind": self.kind or None,
            "verdict": self.verdict,
            "reason": self.reason or None,
            "recorded": str(self.recorded),
            "got": None if self.got is None else str(self.got),
            "differs": [{"field": one.field, "recorded": one.recorded, "got": one.got} for one in self.mismatches],
            "depends_on": list(self.depends_on),
        }

    def __str__(self) -> str:
        """One line."""
        match self.verdict:
            case "same" if self.reason:
                return f"{self.ref}: {self.reason}, {self.recorded}"
            case "same":
                return f"{self.ref}: computed again from its recorded inputs, {self.recorded}"
            case "differs":
                return f"{self.ref}: DIFFERS: {'; '.join(map(str, self.mismatches))}"
            case "undecided":
                return f"{self.ref}: UNDECIDED: {self.reason}"
            case "recorded":
                return f"{self.ref}: rests on its record: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recomputed:
    """Every stage of a lineage, those that others build on first."""

    stages: tuple[StageProof, ...]

    def of(self, verdict: Verdict) -> tuple[StageProof, ...]:
        """Those with a verdict."""
        return tuple(one for one in self.stages if one.verdict == verdict)

    def to_json(self) -> dict[str, JSON]:
        """The JSON form."""
        proven = len(self.of("same"))
        return {"proven": proven, "of": len(self.stages), "stages": [one.to_json() for one in self.stages]}

    def lines(self) -> list[str]:
        """Each stage, and the sum."""
        total = f"{len(self.of('same'))} of {len(self.stages)} stages proven"
        counts = [(len(self.of("differs")), "differ"), (len(self.of("undecided")), "undecided")]
        told = ", ".join([total, *(f"{count} {word}" for count, word in counts if count)])
        rest = "; the rest rest on their records" if self.of("recorded") else ""
        return [*map(str, self.stages), f"{told}{rest}"]


def row(record: Record, verdict: Verdict, **rest: Any) -> StageProof:  # noqa: ANN401 - the other fields
    """A stage's row, with what its record says of itself."""
    return StageProof(ref=record.ref, kind=record.kind, verdict=verdict, recorded=record.artifact.digest, **rest)


def judge(
    record: Record, inputs: Sequence[Input], unused: Sequence[Input], outcome: Outcome, got: ArtifactSummary
) -> StageProof:
    """Hold all that a record says of the bytes against what came out."""
    bytes_differ = tuple(_compare_bytes(record.artifact, got))
    others = (
        *_compare_inputs(record, inputs, unused),
        *_compare_components(record, outcome),
        *_compare_renumbered(record, outcome),
        *_compare_depends_on(record, outcome),
        *(() if bytes_differ else _compare_metrics(record, outcome)),
    )
    if outcome.type != record.artifact.type:
        others = (Mismatch(field="artifact.type", recorded=record.artifact.type, got=outcome.type), *others)
    mismatches, reason = (*bytes_differ, *others), ""
    verdict: Verdict = "differs" if mismatches else "same"
    if bytes_differ and not others and outcome.depends_on:
        verdict = "undecided"
        why = " and ".join(outcome.depends_on)
        reason = f"this machine gives {got.digest}, the record says {record.artifact.digest}; it depends on {why}"
    return row(
        record,
        verdict,
        reason=reason,
        got=got.digest,
        mismatches=mismatches,
        depends_on=outcome.depends_on,
    )


def _compare_bytes(said: ArtifactSummary, got: ArtifactSummary) -> Iterator[Mismatch]:
    """The artifact; what follows from other bytes is not said again."""
    names = ("digest",) if said.digest != got.digest else ("weights_digest", "size_bytes", "listing")
    for name in names:
        recorded, found = getattr(said, name), getattr(got, name)
        if recorded != found:
            yield Mismatch(field=f"artifact.{name}", recorded=str(recorded), got=str(found))


def _compare_inputs(record: Record, inputs: Sequence[Input], unused: Sequence[Input]) -> Iterator[Mismatch]:
    for place, (said, one) in enumerate(zip(record.inputs, inputs, strict=True)):
        if said.weights_digest != one.weights_digest:
            recorded, got = str(said.weights_digest), str(one.weights_digest)
            yield Mismatch(field=f"inputs[{place}].weights_digest", recorded=recorded, got=got)
    for one in unused:
        yield Mismatch(field="inputs", recorded=f"{one.role} {one.digest}", got=f"of no use to a {record.kind}")


def _compare_components(record: Record, outcome: Outcome) -> Iterator[Mismatch]:
    """The map of components, with the digests of inputs for their names."""
    digests = {one.name: f"{one.role} {one.digest}" for one in record.inputs}
    said, got = (Counter(_component(one, digests) for one in side) for side in (record.components, outcome.components))
    if said != got:
        lacking, extra = sorted((got - said).elements()), sorted((said - got).elements())
        recorded = extra[0] if extra else f"{len(record.components)} rows"
        yield Mismatch(
            field="components", recorded=recorded, got=lacking[0] if lacking else f"{sum(got.values())} rows"
        )


def _component(one: ComponentChange, digests: Mapping[str, str]) -> str:
    by = " and ".join(sorted(digests.get(name, name) for name in one.by.split(", "))) or "nothing"
    layers = f" layers {one.layers}" if one.layers else ""
    return f"{one.component}{layers} {one.change} by {by} ({counted(one.tensors, 'tensor')})"


def _compare_renumbered(record: Record, outcome: Outcome) -> Iterator[Mismatch]:
    """What lost its number: an adapter that was made before that must not be folded in."""
    said, got = (sorted({f"{one.what} of {one.digest}" for one in side.renumbered}) for side in (record, outcome))
    if said != got:
        yield Mismatch(field="renumbered", recorded=", ".join(said) or "nothing", got=", ".join(got) or "nothing")


def _compare_depends_on(record: Record, outcome: Outcome) -> Iterator[Mismatch]:
    if sorted(record.depends_on) != sorted(outcome.depends_on):
        recorded, got = (", ".join(one) or "nothing" for one in (record.depends_on, outcome.depends_on))
        yield Mismatch(field="depends_on", recorded=recorded, got=got)


def _compare_metrics(record: Record, outcome: Outcome) -> Iterator[Mismatch]:
    """Figures on the bytes, which are the same here: as far as the order of summing lets them be told."""
    said, got = _flat(record.metrics), _flat(outcome.metrics)
    for name in sorted(said.keys() | got.keys()):
        recorded, found = said.get(name), got.get(name)
        if recorded is None or found is None or not math.isclose(recorded, found, rel_tol=_DIGITS, abs_tol=_NOISE):
            yield Mismatch(field=f"metrics.{name}", recorded=_figure(recorded), got=_figure(found))


def _flat(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{label}.{key}": value for label, values in metrics.items() for key, value in values.items()}


def _figure(value: float | None) -> str:
    return "absent" if value is None else f"{value:.6g}"
