"""Judgement: the ``evaluate`` kind measures a model or an adapter, and what it is compared with.

1. Check that every metric goes with its data, and has ``against`` where it compares.
2. Open the artifacts; both are measured in one pass where they read alike.
3. For each data set and choice of turns: rows to sequences, sequences to sums of nats, sums to figures.
4. Write the report: every figure with what it was taken over.

The metrics are defined in ``builder.stages.metrics``; which tokens count, in ``builder.stages.sequences``.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from builder.environment import DEPENDS_ON, prepare
from builder.rows import read_rows
from builder.stage import Outcome
from builder.stages.metrics import METRICS, Measured, Side
from builder.stages.sequences import message_sequences, preference_sequences, text_sequences
from registry.canonical import pretty
from registry.errors import InvalidError, MachineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.environment import Device
    from builder.manifest import EvaluateStage
    from builder.stage import Context, Input
    from builder.stages.likelihood import Score
    from builder.stages.models import Opened
    from builder.stages.sequences import Sequences, Turns
    from registry.canonical import JSON

__all__ = ["REPORT", "evaluate"]

REPORT = "metrics.json"
_SCHEMA = "varietal/metrics/1"


def evaluate(context: Context[EvaluateStage]) -> Outcome:
    """Measure every metric of a stage; metrics on the same data share their passes.

    Raises:
        InvalidError: A metric does not go with its data or lacks ``against``, rows or template do not do, or two
            artifacts to compare differ in their tokenizers.
        MachineError: A figure is no number.
    """
    device = prepare(context.runner)
    wanted = context.all("data")
    _check(wanted, has_against=context.find("against") is not None)
    opened = _open(context, device, scores=_rates(wanted))
    batch = context.runner.micro_batch or context.settings.batch
    max_length, notes = _fitting_length(context.settings.max_length, opened)
    entries: list[dict[str, JSON]] = []
    for _, group in groupby(sorted(wanted, key=_sharing), key=_sharing):
        same = list(group)
        measured = _measure(opened, same, batch=batch, max_length=max_length, limit=context.settings.limit)
        notes += _losses(same[0], measured.subject.sequences)
        entries += [_entry(one, measured) for one in same]
    entries.sort(key=lambda entry: str(entry["label"]))
    for entry in entries:
        context.say(_line(entry))
    report = {"schema": _SCHEMA, "max_length": max_length, "metrics": list(entries)}
    (context.out / REPORT).write_bytes(pretty(report))
    return Outcome(
        type="report",
        metrics={str(entry["label"]): _figures(entry) for entry in entries},
        depends_on=DEPENDS_ON,
        device=device.name,
        micro_batch=batch,
        notes=notes,
    )


def _check(wanted: Iterable[Input], *, has_against: bool) -> None:
    for one in wanted:
        metric = METRICS[_said(one, "metric")]
        where = f"metrics.{_said(one, 'label')}"
        if one.format not in metric.formats:
            raise InvalidError(
                f"{_said(one, 'metric')} is measured on {' or '.join(metric.formats)}, and {one.name} is {one.format}",
                where=where,
                mend="name other data, or another metric",
            )
        if metric.of_two is not None and not has_against:
            raise InvalidError(
                f"{_said(one, 'metric')} compares two artifacts, and there is no `against:`",
                where=where,
                mend="write `against: base`, or what else to compare with",
            )


def _rates(wanted: Sequence[Input]) -> bool:
    """Whether a model that scores is measured; a model does that, or writes.

    Raises:
        InvalidError: Some metrics are of the one, some of the other.
    """
    rates = {METRICS[_said(one, "metric")].rates for one in wanted}
    if len(rates) > 1:
        raise InvalidError(
            "some metrics are of models that score, some of models that write",
            where="metrics",
            mend="measure each in a stage of its own",
        )
    return rates == {True}


def _open(context: Context[EvaluateStage], device: Device, *, scores: bool) -> tuple[Opened, ...]:
    """The artifact under ``from``, then the one under ``against`` if there is one."""
    from builder.engines.quiet import quiet  # noqa: PLC0415 - after the machine is prepared
    from builder.stages.models import open_input  # noqa: PLC0415

    with quiet():
        subject = open_input(context.one("from"), context.find("base"), device, scores=scores)
        against = context.find("against")
        if against is None:
            return (subject,)
        return subject, open_input(against, context.find("against_base"), device, scores=scores)


def _fitting_length(max_length: int, opened: Iterable[Opened]) -> tuple[int, tuple[str, ...]]:
    """The longest sequence that stage and networks allow, with a note where the networks decide."""
    contexts = [getattr(one.config, "max_position_embeddings", None) or max_length for one in opened]
    fitting = min(max_length, *contexts)
    return fitting, (f"max_length is {fitting} tokens, the networks' context",) if fitting < max_length else ()


def _measure(opened: Sequence[Opened], wanted: Sequence[Input], *, batch: int, max_length: int, limit: int) -> Measured:
    """One data set under one artifact, or two; both read the same tokens where they can."""
    from builder.stages.likelihood import score  # noqa: PLC0415 - torch comes after the machine is prepared
    from builder.stages.ratings import rate  # noqa: PLC0415

    data = wanted[0]
    rows = read_rows(data.path, data.format, where=data.file)[: limit or None]
    compares = any(METRICS[_said(one, "metric")].of_two for one in wanted)
    together = len(opened) == 1 or _tokens_agree(opened, data.format)
    if compares and not together:
        raise InvalidError(
            f"{opened[0].where} and {opened[1].where} differ in vocabulary, tokenizer or chat template",
            where=f"metrics.{_said(data, 'label')}",
            mend="compare artifacts that read alike; bits_per_byte, loss and preference metrics need no such likeness",
        )
    sequences = [_sequences(one, data, rows, max_length) for one in (opened[:1] if together else opened)]
    rates = METRICS[_said(data, "metric")].rates
    if not together:
        measure = rate if rates else score
        scores = [measure([one.model], own.all, batch=batch) for one, own in zip(opened, sequences, strict=True)]
        sides = [_side(own, found, 0) for own, found in zip(sequences, scores, strict=True)]
        return Measured(subject=sides[0], against=sides[1], divergence=(), agreed=0)
    compared = compares and data.format != "preference"
    models = [one.model for one in opened]
    found = (
        rate(models, sequences[0].all, batch=batch)
        if rates
        else score(models, sequences[0].all, batch=batch, compare=compared)
    )
    sides = [_side(sequences[0], found, index) for index in range(len(opened))]
    return Measured(
        subject=sides[0],
        against=sides[1] if len(sides) > 1 else None,
        divergence=tuple(one.divergence for one in found),
        agreed=sum(one.agreed for one in found),
    )


def _side(sequences: Sequences, scores: Iterable[Score], index: int) -> Side:
    return Side(sequences=sequences, nats=tuple(one.nats[index] for one in scores))


def _tokens_agree(opened: Sequence[Opened], data_format: str) -> bool:
    """Whether two artifacts turn the same rows into the same tokens, of one vocabulary."""
    one, other = (
        (
            side.config.vocab_size,
            side.tokenizer.backend_tokenizer.to_str() if side.tokenizer.is_fast else side.tokenizer.get_vocab(),
            (side.tokenizer.bos_token_id, side.tokenizer.eos_token_id),
            "" if data_format == "text" else side.tokenizer.chat_template,
        )
        for side in opened
    )
    return one == other


def _sequences(opened: Opened, data: Input, rows: Sequence[Mapping[str, Any]], max_length: int) -> Sequences:
    """The rows as one artifact reads them."""
    if data.format == "text":
        texts = [row["text"] for row in rows]
        return text_sequences(opened.tokenizer, texts, max_length=max_length, where=data.source)
    if data.format == "preference":
        return preference_sequences(opened.tokenizer, rows, max_length=max_length, where=data.source)
    return message_sequences(
        opened.tokenizer,
        [row["messages"] for row in rows],
        turns=cast("Turns", _said(data, "turns")),
        max_length=max_length,
        where=data.source,
    )


def _entry(wanted: Input, measured: Measured) -> dict[str, JSON]:
    """One metric as the report says it.

    Raises:
        MachineError: A figure is no number.
    """
    metric, sequences = METRICS[_said(wanted, "metric")], measured.subject.sequences
    figures: dict[str, float] = {}
    if metric.of_one is not None:
        figures["value"] = metric.of_one(measured.subject)
        if measured.against is not None:
            figures["against"] = metric.of_one(measured.against)
    elif metric.of_two is not None:
        figures["value"] = metric.of_two(measured)
    for value in figures.values():
        if not math.isfinite(value):
            raise MachineError(
                f"{_said(wanted, 'metric')} is {value}, no number",
                where=f"metrics.{_said(wanted, 'label')}",
                mend="look for weights that are no numbers in the artifacts measured; a training may have diverged",
            )
    return {
        **figures,
        "label": _said(wanted, "label"),
        "metric": _said(wanted, "metric"),
        "data": str(wanted.digest),
        "turns": _said(wanted, "turns") if wanted.format == "messages" else "",
        "rows": sequences.rows,
        "tokens": sequences.tokens,
        "bytes": sequences.size_bytes,
        "truncated": sequences.truncated,
        "silent": sequences.silent,
    }


def _figures(entry: Mapping[str, JSON]) -> dict[str, float]:
    return {key: cast("float", entry[key]) for key in ("value", "against") if key in entry}


def _losses(data: Input, sequences: Sequences) -> tuple[str, ...]:
    """Notes on rows that were not measured whole."""
    cut = f"{data.name}: {sequences.truncated} rows were longer than max_length and lost their end"
    left = f"{data.name}: {sequences.silent} rows were left out: no token that counts"
    return (*([cut] if sequences.truncated else []), *([left] if sequences.silent else []))


def _line(entry: Mapping[str, JSON]) -> str:
    """What the person at the terminal reads of one metric."""
    figures = _figures(entry)
    against = f" (against {figures['against']:.6g})" if "against" in figures else ""
    return f"{entry['label']}: {figures['value']:.6g}{against} over {entry['rows']} rows, {entry['tokens']} tokens"


def _sharing(wanted: Input) -> tuple[str, ...]:
    """Metrics with one key share their passes."""
    turns = _said(wanted, "turns") if wanted.format == "messages" else ""
    return str(wanted.digest), wanted.format, turns


def _said(wanted: Input, key: str) -> str:
    """What the stage says on a metric: its ``label``, ``metric`` or ``turns``."""
    return cast("str", wanted.settings[key])
