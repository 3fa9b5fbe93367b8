"""What the registry verbs print: values in, JSON and lines of text out. The shapes are documented in docs/cli.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from registry.canonical import JSON, decode
from registry.published import Aim

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from registry.digest import Digest
    from registry.git_output import Commit
    from registry.index import Refreshed, Sighting
    from registry.published import Assignment, Published
    from registry.pull import PullReport
    from registry.record import Record
    from registry.releases import NewTag
    from registry.verify import Found

__all__ = [
    "Match",
    "Report",
    "report_index",
    "report_log",
    "report_matches",
    "report_proof",
    "report_pull",
    "report_record",
    "report_tag",
    "report_variants",
]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


class Report(NamedTuple):
    """An answer in both forms."""

    json: JSON
    lines: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """Something that a digest was found as.

    Attributes:
        role: ``artifact``, ``weights``, ``action``, ``input``, ``file`` or ``tensor``.
        digest: The digest that was found.
        name: What it is called: a path or a tensor's name; empty for the others.
        sightings: Records that it was found through.
    """

    role: str
    digest: Digest
    name: str
    sightings: Sequence[Sighting]


def report_variants(variants: Iterable[str], published: Published) -> Report:
    """Every variant with a manifest or a release: its newest release and its channels."""
    rows = []
    for variant in sorted({*variants, *published.releases}):
        versions = [one.version for one in published.releases.get(variant, ())]
        rows.append((variant, versions, published.channels(variant)))
    value: JSON = [
        {"variant": variant, "versions": [*versions], "channels": {**channels}} for variant, versions, channels in rows
    ]
    table = [
        (variant, versions[-1] if versions else "-", ", ".join(f"{name} {at}" for name, at in channels.items()))
        for variant, versions, channels in rows
    ]
    return Report(value, _columns(table))


def report_record(found: Found) -> Report:
    """All that a record says, and where it was found."""
    record = found.record
    value: JSON = {
        "ref": str(found.ref),
        "commit": found.commit or None,
        "version": found.version or None,
        "record": decode(found.record_bytes, where=record.ref),
    }
    summary = record.artifact
    facts = [
        ("ref", f"{found.ref}{f' is {record.variant}@{found.version}' if found.version else ''}"),
        ("stage", f"{record.ref} ({record.kind}, recipe {record.action.recipe})"),
        ("commit", found.commit or "work tree"),
        ("artifact", f"{summary.type} {summary.digest}"),
        ("weights", str(summary.weights_digest or "none")),
        ("action", str(record.action.digest)),
        ("size", f"{_size(summary.size_bytes)} in {len(summary.files)} files"),
        *(("from", f"{one.role} {one.source} {one.digest}") for one in record.inputs),
        *(("component", _component(record, place)) for place in range(len(record.components))),
        *(("metric", f"{label}: {_metric(values)}") for label, values in sorted(record.metrics.items())),
        *(("setting", f"{key}: {_plain(setting)}") for key, setting in sorted(record.action.settings.items())),
        ("made on", f"{record.device} in {record.duration_s:.1f} s, at most {record.peak_memory_mib:.0f} MiB"),
        ("depends on", ", ".join(record.depends_on) or "nothing else: any machine gives these bytes"),
        *(("note", note) for note in record.notes),
        *([("reused from", record.reused_from)] if record.reused_from else []),
    ]
    return Report(value, _columns(facts))


def report_log(variant: str, published: Published, commits: Iterable[Commit], channel: str = "") -> Report:
    """What happened to a variant, newest first: its commits, its releases, where its channels pointed."""
    events: list[tuple[datetime, dict[str, JSON], str]] = [
        (
            one.committed,
            {"event": "commit", "commit": one.id, "subject": one.subject},
            f"commit   {one.id[:12]}  {one.subject}",
        )
        for one in reversed([*commits])
    ]
    if not channel:
        events += [
            (
                one.created,
                {"event": "release", "commit": one.commit, "version": one.version},
                f"release  {one.commit[:12]}  {one.ref}",
            )
            for one in published.releases.get(variant, ())
        ]
    for one in published.assignments.get(variant, ()):
        if channel in ("", one.channel):
            value, text = _move(one)
            events.append((one.created, value, text))
    events.sort(key=lambda event: event[0])
    ordered = events[::-1]  # of equal times, what is listed later comes first
    rows: JSON = [{"time": time.isoformat(), **value} for time, value, _ in ordered]
    return Report(rows, [f"{time:%Y-%m-%d %H:%M}  {text}" for time, _, text in ordered])


def _move(one: Assignment) -> tuple[dict[str, JSON], str]:
    """An assignment, as JSON and as a line."""
    problem = one.problem()
    aim = Aim(version="", rollback=False) if problem else one.aim()
    value: dict[str, JSON] = {
        "event": "rollback" if aim.rollback else "promote",
        "commit": one.commit,
        "version": aim.version or None,
        "channel": one.channel,
        "number": one.number,
        "problem": problem.what if problem else None,
    }
    target = f"unreadable: {problem.what}" if problem else aim.version or "nothing"
    return value, f"{value['event']!s:8} {one.commit[:12]}  {one.ref} -> {target}"


def report_matches(matches: Sequence[Match]) -> Report:
    """Where a digest was found."""
    value: JSON = [
        {
            "as": match.role,
            "digest": str(match.digest),
            "name": match.name or None,
            "seen": [
                {
                    "ref": one.record.ref,
                    "artifact_digest": str(one.record.artifact.digest),
                    "commit": one.commit or None,
                    "path": one.path,
                }
                for one in match.sightings
            ],
        }
        for match in matches
    ]
    rows = [
        (match.role, match.name or f"sha256:{match.digest.short}", one.record.ref, one.commit[:12] or "work tree")
        for match in matches
        for one in match.sightings
    ]
    return Report(value, _columns(dict.fromkeys(rows)))


def report_proof(found: Found, folder: str, steps: Sequence[str], *, signed: bool | None) -> Report:
    """The steps that were shown; ``signed`` is ``None`` where there is no tag."""
    value: JSON = {
        "ref": str(found.ref),
        "commit": found.commit or None,
        "version": found.version or None,
        "artifact_digest": str(found.record.artifact.digest),
        "folder": folder or None,
        "tag_signature_verified": signed,
        "steps": [*found.steps, *steps],
    }
    lines = [*found.steps, *steps]
    if signed is not None:
        lines.append("the tag's signature " + ("holds" if signed else "is missing, or git knows no key for it"))
    return Report(value, lines)


def report_tag(tag: NewTag) -> Report:
    """A tag that was made."""
    line = tag.message.partition("\n")[0]
    return Report({"tag": tag.name, "commit": tag.commit}, [f"{tag.name}: {line}, commit {tag.commit}"])


def report_pull(found: Found, report: PullReport) -> Report:
    """What a pull moved and what it had."""
    value: JSON = {
        "ref": str(found.ref),
        "commit": found.commit or None,
        "version": found.version or None,
        "folder": str(report.target),
        "artifact_digest": str(report.digest),
        "moved_bytes": report.moved_bytes,
        "had_bytes": report.had_bytes,
        "moved_from": {**report.moved_from},
        "kept": report.kept,
        "base": None if report.base is None else {"source": report.base.source, "digest": str(report.base.digest)},
        "notes": [*report.notes],
    }
    done = "is there already" if report.kept else "pulled"
    lines = [
        f"{found.ref} {done}: {found.record.artifact.type} {report.digest} in {report.target}",
        f"moved {_size(report.moved_bytes)}, had {_size(report.had_bytes)}",
    ]
    if report.base is not None:
        lines.append(f"it needs its base beside it: {report.base.source} {report.base.digest}")
    return Report(value, lines)


def report_index(refreshed: Refreshed, taken: int) -> Report:
    """What is in the index."""
    value: JSON = {
        "records": refreshed.records,
        "new_records": refreshed.new,
        "artifacts": refreshed.artifacts,
        "tensor_tables": refreshed.listed + taken,
        "problems": [{"path": path, "problem": problem} for path, problem in refreshed.problems],
    }
    counts = f"{refreshed.records} records ({refreshed.new} new) of {refreshed.artifacts} artifacts"
    lines = [f"{counts}, {refreshed.listed + taken} with their tensors"]
    lines += [f"not a record: {path}: {problem}" for path, problem in refreshed.problems]
    return Report(value, lines)


def _component(record: Record, place: int) -> str:
    one = record.components[place]
    layers = f" layers {one.layers}" if one.layers else ""
    by = f" by {one.by}" if one.by else ""
    return f"{one.component}{layers}: {one.change}{by}, {one.tensors} tensor{'s' if one.tensors != 1 else ''}"


def _metric(values: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {number:g}" for key, number in sorted(values.items(), reverse=True))


def _plain(value: JSON) -> str:
    """A setting in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in sorted(value.items()))
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return "none" if value is None else str(value)


def _size(size_bytes: int) -> str:
    value, unit = float(size_bytes), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{size_bytes} B"


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows as aligned columns."""
    table = [*rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
