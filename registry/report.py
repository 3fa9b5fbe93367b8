"""What the registry verbs print: values in, JSON and lines of text out. The shapes are documented in docs/cli.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from registry.canonical import JSON, decode
from registry.counted import counted
from registry.published import version_order
from registry.sizes import format_size
from registry.tag_message import Aim

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
    from registry.standing import Standing
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


def report_variants(variants: Mapping[str, Standing], published: Published) -> Report:
    """Every variant with a manifest or a release: its newest release, its channels, and whether it is deprecated."""
    rows = []
    withdrawn = sorted(published.withdrawn, key=lambda one: version_order(one.version))
    for variant in sorted({*variants, *published.releases}):
        versions = [one.version for one in published.releases.get(variant, ())]
        gone = [one.version for one in withdrawn if one.variant == variant]
        deprecated = variants[variant].deprecated if variant in variants else ""
        rows.append((variant, versions, gone, published.channels(variant), deprecated))
    value: JSON = [
        {
            "variant": variant,
            "versions": [*versions],
            "withdrawn": [*gone],
            "channels": {**channels},
            "deprecated": deprecated or None,
            "declared": variant in variants,
        }
        for variant, versions, gone, channels, deprecated in rows
    ]
    table = [
        (
            variant,
            next((one for one in versions[::-1] if one not in gone), "-"),
            ", ".join(f"{name} {at}" for name, at in channels.items()),
            _remark(declared=variant in variants, deprecated=deprecated),
        )
        for variant, versions, gone, channels, deprecated in rows
    ]
    return Report(value, _columns(table))


def _remark(*, declared: bool, deprecated: str) -> str:
    """What a list says of a variant that is not as the others are."""
    if not declared:
        return "no longer declared here"
    return f"deprecated: {deprecated}" if deprecated else ""


def report_record(found: Found, deprecated: str = "") -> Report:
    """All that a record says, and where it was found; and why its variant should no longer be used."""
    record = found.record
    value: JSON = {
        "ref": str(found.ref),
        "commit": found.commit or None,
        "version": found.version or None,
        "deprecated": deprecated or None,
        "record": decode(found.record_bytes, where=record.ref),
    }
    summary = record.artifact
    facts = [
        ("ref", f"{found.ref}{f' is {record.variant}@{found.version}' if found.version else ''}"),
        *([("deprecated", deprecated)] if deprecated else []),
        ("stage", f"{record.ref} ({record.kind}, recipe {record.action.recipe})"),
        ("commit", found.commit or "work tree"),
        ("artifact", f"{summary.type} {summary.digest}"),
        ("weights", str(summary.weights_digest or "none")),
        ("action", str(record.action.digest)),
        ("size", f"{format_size(summary.size_bytes)} in {counted(len(summary.files), 'file')}"),
        *(("from", f"{one.role} {one.source} {one.digest}") for one in record.inputs),
        *(("component", _component(record, place)) for place in range(len(record.components))),
        *(("metric", f"{label}: {_metric(values)}") for label, values in sorted(record.metrics.items())),
        *(("setting", f"{key}: {_plain(setting)}") for key, setting in sorted(record.action.settings.items())),
        ("made on", _machine(record)),
        ("depends on", ", ".join(record.depends_on) or "nothing else: any machine gives these bytes"),
        *(("note", note) for note in record.notes),
        *([("reused from", record.reused_from)] if record.reused_from else []),
    ]
    return Report(value, _columns(facts))


def report_log(
    variant: str, published: Published, commits: Iterable[Commit], channel: str = "", *, formerly: Sequence[str] = ()
) -> Report:
    """What happened to a variant, newest first: its commits, its releases, where its channels pointed.

    Args:
        variant: The variant.
        published: Releases and channels.
        commits: Commits that changed it.
        channel: The one channel to tell of; empty for all, with the releases.
        formerly: Names that it had before.
    """
    names = (variant, *formerly)
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
                {"event": "release", "commit": one.commit, "variant": one.variant, "version": one.version},
                f"release  {one.commit[:12]}  {one.ref}",
            )
            for name in names
            for one in published.releases.get(name, ())
        ]
    latest: dict[str, datetime] = {}
    for one in (one for name in names for one in published.assignments.get(name, ())):
        if channel in ("", one.channel):
            value, text = _move(one)
            # By number, whatever the clock said: one that was behind does not put a move before the one it follows.
            latest[one.variant] = max(latest.get(one.variant, one.created), one.created)
            events.append((latest[one.variant], {**value, "time": one.created.isoformat()}, text))
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
        "variant": one.variant,
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
        "on_main": not found.off_main if found.version else None,
        "tag_signature_verified": signed,
        "steps": [*found.steps, *steps],
        "warnings": [*found.warnings],
    }
    lines = [*found.steps, *steps, *found.warnings]
    if signed is not None:
        lines.append("the tag's signature " + ("holds" if signed else "is missing, or git knows no key for it"))
    return Report(value, lines)


def report_tag(tag: NewTag) -> Report:
    """A tag that was made."""
    line = tag.message.partition("\n")[0]
    return Report({"tag": tag.name, "commit": tag.commit}, [f"{tag.name}: {line}, commit {tag.commit}"])


def report_pull(found: Found, report: PullReport, deprecated: str = "") -> Report:
    """What a pull moved and what it had; and why the variant should no longer be used."""
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
        "deprecated": deprecated or None,
    }
    done = "is there already" if report.kept else "pulled"
    lines = [
        f"{found.ref} {done}: {found.record.artifact.type} {report.digest} in {report.target}",
        f"moved {format_size(report.moved_bytes)}, had {format_size(report.had_bytes)}",
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
    records, artifacts = counted(refreshed.records, "record"), counted(refreshed.artifacts, "artifact")
    counts = f"{records} ({refreshed.new} new) of {artifacts}"
    lines = [f"{counts}, {refreshed.listed + taken} with their tensors"]
    lines += [f"not a record: {path}: {problem}" for path, problem in refreshed.problems]
    return Report(value, lines)


def _machine(record: Record) -> str:
    """What a record says of the run itself."""
    card = f", {record.device_memory_mib:.0f} MiB of the GPU" if record.device_memory_mib else ""
    return f"{record.device} in {record.duration_s:.1f} s, at most {record.peak_memory_mib:.0f} MiB{card}"


def _component(record: Record, place: int) -> str:
    one = record.components[place]
    layers = f" layers {one.layers}" if one.layers else ""
    by = f" by {one.by}" if one.by else ""
    return f"{one.component}{layers}: {one.change}{by}, {counted(one.tensors, 'tensor')}"


def _metric(values: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {number:g}" for key, number in sorted(values.items(), reverse=True))


def _plain(value: JSON) -> str:
    """A setting in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in sorted(value.items()))
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return "none" if value is None else str(value)


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows as aligned columns."""
    table = [*rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
