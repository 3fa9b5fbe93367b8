"""The Plan value: what a build would do with each stage, why, and at what cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.address import Address
    from registry.canonical import JSON

__all__ = ["UNKNOWN", "Estimate", "Plan", "PlannedStage", "PlannedVariant", "Verdict", "sorted_by_needs", "total"]

Verdict: TypeAlias = Literal["run", "maybe", "reuse", "keep"]
"""``run``: is computed. ``reuse``: an artifact of the same action is linked. ``maybe``: runs if an input comes out
different. ``keep``: is what the manifest asks for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a stage would cost; each ``None`` where nothing is known.

    Attributes:
        size_bytes: Size of its artifact.
        gpu_memory_mib: Peak memory of the device, MiB; ``None`` for a stage that uses none, too.
        duration_s: Seconds that it takes.
        duration_spread_s: How far earlier runs were from that, in seconds, either way.
        downloads_bytes: Bytes that are not on this machine and have to be fetched first.
        does_not_fit: What to write instead, where the runner's card is too small whatever the micro-batch; else empty.
    """

    size_bytes: int | None = None
    gpu_memory_mib: float | None = None
    duration_s: float | None = None
    duration_spread_s: float | None = None
    downloads_bytes: int | None = None
    does_not_fit: str = ""

    def to_json(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        return {
            "size_bytes": self.size_bytes,
            "gpu_memory_mib": self.gpu_memory_mib,
            "duration_s": self.duration_s,
            "duration_spread_s": self.duration_spread_s,
            "downloads_bytes": self.downloads_bytes,
            "does_not_fit": self.does_not_fit or None,
        }


UNKNOWN = Estimate()
"""Nothing is known, or nothing is to be done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStage:
    """What a build would do with one stage.

    Attributes:
        address: The stage.
        kind: Its kind.
        verdict: What would be done.
        reasons: Why, in the manifest's words; empty for ``keep``.
        reuse: Ref of the stage whose artifact is linked; empty where none is.
        needs: The stages that it reads from, in the manifest's order.
        estimate: What it would cost.
    """

    address: Address
    kind: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    reuse: str = ""
    needs: tuple[Address, ...] = ()
    estimate: Estimate = UNKNOWN

    def to_json(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        return {
            "stage": str(self.address),
            "kind": self.kind,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "reuse": self.reuse or None,
            "needs": [str(one) for one in self.needs],
            "estimate": self.estimate.to_json(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedVariant:
    """What changes in a variant beside what its stages do.

    Attributes:
        name: The variant; ``bases`` for the imported bases.
        state: ``new``, ``removed``, ``renamed``, ``changed``, or ``same`` where only what it is made from changes.
        renamed_from: Its name before; empty where it was not renamed.
        changes: How its manifest differs, one line a key.
        checks: What the gate will ask, one line a check; ``None`` where the manifest has no ``checks:`` at all.
        affects: Variants that are made from it and would be touched, too.
        releases: Releases of it, and channels on them, that stay as they are and now differ from what is declared.
    """

    name: str
    state: Literal["new", "removed", "renamed", "changed", "same"]
    renamed_from: str = ""
    changes: tuple[str, ...] = ()
    checks: tuple[str, ...] | None = ()
    affects: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "state": self.state,
            "renamed_from": self.renamed_from or None,
            "changes": list(self.changes),
            "checks": None if self.checks is None else list(self.checks),
            "affects": list(self.affects),
            "releases": list(self.releases),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a build would do.

    Attributes:
        stages: Every stage that was asked about, each after those that it needs.
        copies: Stages that are not built anew for certain, and whose record in git is not the one of their lock: a
            build puts it back.
        notes: What a person should know and no stage says, such as a pipeline file that is not what its manifest says.
        variants: What changes beside the stages; of those variants alone where something does.
        against: The commit that was compared with; empty for the work tree's own locks.
    """

    stages: tuple[PlannedStage, ...]
    copies: tuple[Address, ...] = ()
    notes: tuple[str, ...] = ()
    variants: tuple[PlannedVariant, ...] = ()
    against: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether a build would do nothing."""
        return not self.copies and all(one.verdict == "keep" for one in self.stages)

    def count(self, verdict: Verdict) -> int:
        """How many stages have this verdict."""
        return sum(one.verdict == verdict for one in self.stages)

    def to_json(self) -> dict[str, JSON]:
        """The shape of ``varietal plan --json``."""
        return {
            "against": self.against or None,
            "stages": [one.to_json() for one in self.stages],
            "copies": [str(one) for one in self.copies],
            "variants": [one.to_json() for one in self.variants],
            "notes": list(self.notes),
            "certain": total(self.stages, "run", "reuse").to_json(),
            "at_most": total(self.stages, "run", "reuse", "maybe").to_json(),
        }


def sorted_by_needs(needs: Mapping[Address, Sequence[Address]]) -> tuple[Address, ...]:
    """Every stage after those that it needs, else in the order given."""
    ordered: dict[Address, None] = {}
    for start in needs:
        waiting = [start]
        while waiting:
            open_needs = [one for one in needs[waiting[-1]] if one in needs and one not in ordered]
            if open_needs:
                waiting += reversed(open_needs)
            else:
                ordered[waiting.pop()] = None
    return tuple(ordered)


def total(stages: Iterable[PlannedStage], *verdicts: Verdict) -> Estimate:
    """What the stages with these verdicts cost together, one after another.

    Time and bytes are summed, of memory the largest is taken; spreads add up as those of independent measures do.
    """
    chosen = [one.estimate for one in stages if one.verdict in verdicts]
    durations = [one.duration_s for one in chosen if one.duration_s is not None]
    spreads = [one.duration_spread_s for one in chosen if one.duration_spread_s is not None]
    memory = [one.gpu_memory_mib for one in chosen if one.gpu_memory_mib is not None]
    sizes = [one.size_bytes for one in chosen if one.size_bytes is not None]
    downloads = [one.downloads_bytes for one in chosen if one.downloads_bytes is not None]
    return Estimate(
        size_bytes=sum(sizes) if sizes else None,
        gpu_memory_mib=max(memory) if memory else None,
        duration_s=round(sum(durations), 1) if durations else None,
        duration_spread_s=round(math.hypot(*spreads), 1) if spreads else None,
        downloads_bytes=sum(downloads) if downloads else None,
    )
