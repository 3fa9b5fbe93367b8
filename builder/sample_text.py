"""Samples as lines for a person, and as JSON. What is learnt stands between marks, or in colour on a terminal. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.terminal import harmless

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.sample import Sampled
    from builder.stages.samples import Run, Sample
    from registry.canonical import JSON

__all__ = ["as_json", "as_lines"]

_OPEN, _CLOSE = "⟦", "⟧"
_LEARNT, _PLAIN = "\x1b[32m", "\x1b[0m"


def as_json(found: Sampled) -> JSON:
    """As ``--json`` prints it."""
    samples = found.samples
    return {
        "stage": str(found.address),
        "kind": found.kind,
        "tokenizer": str(found.model),
        "template": samples.template,
        "marks": samples.has_marks,
        "format": samples.format,
        "rows": samples.rows,
        "sequences": samples.sequences,
        "notes": [*samples.notes],
        "samples": [one.to_json() for one in samples.samples],
    }


def as_lines(found: Sampled, *, colour: bool, template: bool = False) -> Iterator[str]:
    """Lines that steer no terminal but by our own colours.

    Args:
        found: The samples.
        colour: Whether to tell what is learnt by colour; else by marks.
        template: Whether to print the chat template.
    """
    samples = found.samples
    marks = "marks the assistant's turns" if samples.has_marks else "marks no assistant's turns"
    chat = f"chat template that {marks}" if samples.template else "no chat template"
    yield harmless(
        f"{found.address} ({found.kind}): {samples.rows} rows of {samples.format}, tokenizer of {found.model}"
    )
    yield f"{samples.sequences} sequences; {chat}; learnt: {_shown('like this', colour=colour)}"
    yield from (harmless(note) for note in samples.notes)
    if template:
        yield from ("", *(harmless(line) for line in samples.template.splitlines()))
    for sample in samples.samples:
        yield ""
        yield harmless(_head(sample))
        yield from _body(sample, colour=colour)


def _head(sample: Sample) -> str:
    places = "; ".join(sample.places)
    part = f", {sample.part}" if sample.part else ""
    return f"{places}{part}: {sample.tokens} tokens, {sample.learnt} learnt"


def _body(sample: Sample, *, colour: bool) -> Iterator[str]:
    """The text line by line, indented, each line with the marks of its own."""
    lines = [""]
    for run in sample.runs:
        for number, line in enumerate(run.text.split("\n")):
            if number:
                lines.append("")
            lines[-1] += _run(run, line, colour=colour)
    yield from (f"  {line}" for line in lines)


def _run(run: Run, line: str, *, colour: bool) -> str:
    said = harmless(line)
    return _shown(said, colour=colour) if run.learnt and said else said


def _shown(text: str, *, colour: bool) -> str:
    return f"{_LEARNT}{text}{_PLAIN}" if colour else f"{_OPEN}{text}{_CLOSE}"
