"""A plan as a comment on a pull request: what changes, at what cost, what it touches, what the gate will ask.

Whatever comes from a manifest, a path or a tag stands in a code span, so that it can neither link, mention, draw nor
end the comment; and there is a limit on each list, since there is one on a comment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from builder.plan.text import say_bytes, say_estimate, say_seconds
from builder.plan.values import total
from builder.request.markdown import code
from registry.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.plan.values import Estimate, Plan, PlannedStage, PlannedVariant, Verdict

__all__ = ["comment"]

_MOST_ROWS: Final = 40
_MOST_VARIANTS: Final = 20
_MOST_LINES: Final = 12
_MOST_REASONS: Final = 3
_MOST_CHARACTERS: Final = 60_000  # a forge takes 65,536
_MIB: Final = 1 << 20
_WORDS: Final[Mapping[Verdict, str]] = {"run": "to run", "reuse": "reused", "maybe": "that may follow", "keep": "kept"}
_MEANING: Final[Mapping[Verdict, str]] = {"run": "**run**", "reuse": "reuse", "maybe": "maybe", "keep": "keep"}
_STATES: Final = {"new": "new", "removed": "removed", "changed": "changed", "same": "manifest as before"}


def comment(plan: Plan, *, card_mib: float = 0) -> str:
    """The comment.

    Args:
        plan: The plan, with its variants.
        card_mib: Memory of the runner's card, MiB; 0 where it is not known.
    """
    text = "\n".join(_parts(plan, card_mib)) + "\n"
    if len(text) <= _MOST_CHARACTERS:
        return text
    return text[: text.rindex("\n", 0, _MOST_CHARACTERS)] + "\n\nCut here: `varietal plan` says all of it.\n"


def _parts(plan: Plan, card_mib: float) -> Iterator[str]:
    changing = [one for one in plan.stages if one.verdict != "keep"]
    if changing:
        counts = [f"{count} {word}" for verdict, word in _WORDS.items() if (count := plan.count(verdict))]
        yield f"### Plan: {', '.join(counts)}\n"
        yield from _costs(plan, card_mib)
    else:
        head = f"{counted(len(plan.copies), 'record')} to put back" if plan.copies else "nothing to build"
        all_of = counted(len(plan.stages), "stage is what its manifest says", "stages are what the manifests say")
        yield f"### Plan: {head}\n\n{all_of}.\n"
    if plan.against:
        yield f"By the locks of commit {code(plan.against[:12])}.\n"
    if plan.variants:
        yield "#### What changes\n"
        for one in plan.variants[:_MOST_VARIANTS]:
            yield from _variant(one)
        yield from _rest(plan.variants, _MOST_VARIANTS, "variants")
    if changing:
        yield from _stages(changing, card_mib)
    if plan.notes:
        yield "#### To mend first\n"
        yield from (f"- {code(note)}" for note in plan.notes[:_MOST_LINES])
        yield from _rest(plan.notes, _MOST_LINES, "notes")


def _costs(plan: Plan, card_mib: float) -> Iterator[str]:
    surely, at_most = total(plan.stages, "run", "reuse"), total(plan.stages, "run", "reuse", "maybe")
    rows = [("time", _time(surely, at_most)), ("GPU memory", _memory(at_most, card_mib))]
    rows.append(("new artifacts", _between(surely.size_bytes, at_most.size_bytes)))
    if at_most.downloads_bytes:
        rows.append(("to fetch first", _between(surely.downloads_bytes, at_most.downloads_bytes)))
    yield "| cost | |\n|---|---|"
    yield from (f"| {name} | {said} |" for name, said in rows if said)
    yield ""


def _time(surely: Estimate, at_most: Estimate) -> str:
    if at_most.duration_s is None:
        return "no earlier build tells"
    certain = surely.duration_s or 0.0
    spread = f" ± {say_seconds(surely.duration_spread_s)}" if surely.duration_spread_s else ""
    follows = f", up to {say_seconds(at_most.duration_s)} if all that may follow does"
    return f"{say_seconds(certain)}{spread}{follows if at_most.duration_s > certain else ''}, one stage after another"


def _memory(at_most: Estimate, card_mib: float) -> str:
    if at_most.gpu_memory_mib is None:
        return ""
    needed = say_bytes(at_most.gpu_memory_mib * _MIB)
    if not card_mib:
        return f"{needed} at least"
    card = say_bytes(card_mib * _MIB)
    fits = at_most.gpu_memory_mib <= card_mib
    return f"{needed} at least, of {card}" if fits else f"**{needed} at least, the card has {card}**"


def _between(surely: float | None, at_most: float | None) -> str:
    if at_most is None:
        return ""
    if surely is None or surely == at_most:
        return say_bytes(at_most)
    return f"{say_bytes(surely)} to {say_bytes(at_most)}"


def _variant(one: PlannedVariant) -> Iterator[str]:
    state = f"renamed from {code(one.renamed_from)}" if one.state == "renamed" else _STATES[one.state]
    yield f"**{code(one.name)}** ({state})\n"
    if one.changes:
        yield from (f"- {code(line)}" for line in one.changes[:_MOST_LINES])
        yield from _rest(one.changes, _MOST_LINES, "keys")
        yield ""
    if one.affects:
        yield f"Also touches {_listed(one.affects)}.\n"
    if one.releases:
        yield f"Released: {_listed(one.releases)}. None of these moves before the next release.\n"
    if one.checks is None:
        yield "The gate will say no: the manifest has no `checks:`.\n"
    elif one.checks:
        yield "The gate will ask:\n"
        yield from (f"- {code(check)}" for check in one.checks[:_MOST_LINES])
        yield from _rest(one.checks, _MOST_LINES, "checks")
        yield ""


def _stages(changing: Sequence[PlannedStage], card_mib: float) -> Iterator[str]:
    yield "#### Stages\n"
    yield "| | stage | why | cost |\n|---|---|---|---|"
    for one in changing[:_MOST_ROWS]:
        reasons = [code(reason) for reason in one.reasons[:_MOST_REASONS]]
        reasons += _rest(one.reasons, _MOST_REASONS, "reasons")
        linked = f" the artifact of {code(one.reuse)}" if one.reuse else ""
        cost = say_estimate(one.estimate, card_mib=card_mib)
        name = f"{code(str(one.address))} {one.kind}"
        yield f"| {_MEANING[one.verdict]}{linked} | {name} | {'<br>'.join(reasons)} | {cost} |"
    yield ""
    yield from _rest(changing, _MOST_ROWS, "stages")
    yield "`maybe` runs only if an input comes out different; `reuse` links what an equal stage gave.\n"


def _listed(names: Sequence[str]) -> str:
    named = ", ".join(code(name) for name in names[:_MOST_LINES])
    return named + (f" and {len(names) - _MOST_LINES} more" if len(names) > _MOST_LINES else "")


def _rest(values: Sequence[object], most: int, called: str) -> Iterator[str]:
    if len(values) > most:
        yield f"and {len(values) - most} more {called}"
