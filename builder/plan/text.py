"""A plan as text for a terminal: what is not kept, why, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from builder.plan.values import total
from registry.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.plan.values import Estimate, Plan, PlannedStage, PlannedVariant, Verdict

__all__ = ["describe", "say_bytes", "say_estimate", "say_seconds", "say_verdicts"]

_VERDICTS: Final[tuple[Verdict, ...]] = ("run", "reuse", "maybe", "keep")
_KIB = 1024
_TEN = 10  # from here on a digit behind the point says nothing
_MINUTE_S = 60
_HOUR_S = 3600


def describe(plan: Plan, *, card_mib: float = 0) -> list[str]:
    """The lines of ``varietal plan``.

    Args:
        plan: The plan.
        card_mib: Memory of this machine's card, MiB; 0 where it is not known.
    """
    lines = [line for one in plan.variants for line in _variant_lines(one)]
    lines += [line for one in plan.stages if one.verdict != "keep" for line in _stage_lines(one, card_mib)]
    if lines:
        lines.append("")
    lines.append(say_verdicts(plan))
    lines += [f"note: {note}" for note in plan.notes]
    return lines


def say_verdicts(plan: Plan) -> str:
    """One line: how many stages have which verdict, and what the certain ones cost."""
    as_said = counted(len(plan.stages), "stage is what its manifest says", "stages are what the manifests say")
    if plan.is_empty:
        return f"nothing to do: {as_said}"
    copies = f"; {counted(len(plan.copies), 'record')} to put back" if plan.copies else ""
    if plan.count("keep") == len(plan.stages):
        return f"{as_said}{copies}"
    counts = [f"{count} {verdict}" for verdict in _VERDICTS if (count := plan.count(verdict))]
    cost = say_estimate(total(plan.stages, "run", "reuse"))
    return ", ".join(counts) + (f"; certainly {cost}" if cost else "") + copies


def say_estimate(estimate: Estimate, *, card_mib: float = 0) -> str:
    """What something costs, in a few words; empty where nothing is known."""
    return ", ".join(_parts(estimate, card_mib))


def say_bytes(size_bytes: float) -> str:
    """A size for people: ``1.5 GiB``, ``780 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < _KIB:
            return f"{size_bytes:.0f} {unit}" if unit == "B" or size_bytes >= _TEN else f"{size_bytes:.1f} {unit}"
        size_bytes /= _KIB
    return f"{size_bytes:.1f} TiB"


def say_seconds(duration_s: float) -> str:
    """A duration for people: ``12 s``, ``3 min``, ``2.5 h``."""
    if duration_s < 2 * _MINUTE_S:
        return f"{duration_s:.0f} s" if duration_s >= _TEN else f"{duration_s:.1f} s"
    if duration_s < 2 * _HOUR_S:
        return f"{duration_s / _MINUTE_S:.0f} min"
    return f"{duration_s / _HOUR_S:.1f} h"


def _variant_lines(one: PlannedVariant) -> Iterator[str]:
    """Variants that came, went or were renamed; what changed in the others is among the reasons of their stages."""
    if one.state in {"new", "removed"}:
        yield f"{one.state} variant {one.name}"
    elif one.state == "renamed":
        yield f"variant {one.name} was called {one.renamed_from}"


def _stage_lines(one: PlannedStage, card_mib: float) -> Iterator[str]:
    linked = f" of {one.reuse}" if one.reuse else ""
    cost = say_estimate(one.estimate, card_mib=card_mib)
    yield f"{one.verdict:5}  {one.address} ({one.kind}){linked}" + (f"  [{cost}]" if cost else "")
    yield from (f"       {reason}" for reason in one.reasons)


def _parts(estimate: Estimate, card_mib: float) -> Iterator[str]:
    if estimate.duration_s is not None:
        spread = estimate.duration_spread_s
        yield say_seconds(estimate.duration_s) + (f" +- {say_seconds(spread)}" if spread else "")
    if estimate.gpu_memory_mib is not None:
        of_card = f" of {say_bytes(card_mib * _KIB * _KIB)}" if card_mib else ""
        over = ": more than the card has" if card_mib and estimate.gpu_memory_mib > card_mib else ""
        yield f"GPU {say_bytes(estimate.gpu_memory_mib * _KIB * _KIB)}{of_card}{over}"
    if estimate.size_bytes is not None:
        yield say_bytes(estimate.size_bytes)
    if estimate.downloads_bytes:
        yield f"fetches {say_bytes(estimate.downloads_bytes)}"
