"""The registry's verbs: parse, call, print. Rules are elsewhere; errors end in the ``main`` of the command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry.errors import InvalidError, NotFoundError
from registry.terminal import Command, Group, Json, RefText, open_repository, open_store, print_report, say
from registry.verbs import changelog, describe, move, pull, withdraw

if TYPE_CHECKING:
    from registry.digest import Digest
    from registry.history import Repository
    from registry.index import Index
    from registry.lineage import Lineage
    from registry.report import Match

__all__ = ["Group", "RefText", "open_store", "print_report", "register"]


def register(app: typer.Typer) -> None:
    """Add the verbs to a command."""
    for verb in (_list, _show, _log, _lineage, _find, _index):
        app.command(verb.__name__.removeprefix("_"), cls=Command)(verb)
    for verbs in (move, withdraw, describe, pull, changelog):
        verbs.register(app)


def _list(*, json: Json = False) -> None:
    """List the variants: newest release, and what each channel points at."""
    from registry.refs import is_variant
    from registry.report import report_variants
    from registry.signers import read_published
    from registry.standing import standing

    repository = open_repository()
    names = [path.parent.name for path in repository.root.glob("models/*/model.yaml")]
    variants = {name: standing(repository, name) for name in names if is_variant(name)}
    published = read_published(repository)
    for warning in published.warnings():
        say(warning)
    for problem in published.problems():
        say(f"left out, {problem.where}: {problem.what}")
    print_report(report_variants(variants, published), json=json)


def _show(ref: RefText, *, json: Json = False) -> None:
    """Show the record of an artifact: what it is, how it was made, what was measured."""
    from registry.refs import parse
    from registry.report import report_record
    from registry.resolve import resolve
    from registry.standing import standing

    repository = open_repository()
    found = resolve(repository, parse(ref))
    for warning in found.warnings:
        say(warning)
    print_report(report_record(found, standing(repository, found.record.variant).deprecated), json=json)


def _log(
    subject: Annotated[str, typer.Argument(metavar="NAME", help="A variant, name:stage, or name#channel.")],
    *,
    json: Json = False,
) -> None:
    """Show what happened to a variant, a stage or a channel, newest first."""
    from registry.published import Published
    from registry.record import git_record, manifest_file
    from registry.refs import Channel, Stage, check_variant, parse
    from registry.report import report_log
    from registry.signers import read_published
    from registry.standing import standing

    repository = open_repository()
    ref = parse(subject) if set(subject) & set("@#:") else None
    if isinstance(ref, Stage):
        commits = repository.log([str(git_record(ref.variant, ref.stage))], ref.revision or "HEAD")
        published = Published(releases={}, assignments={}, withdrawn=frozenset())
        report = report_log(ref.variant, published, commits)
    elif isinstance(ref, Channel):
        report = report_log(ref.variant, read_published(repository, ref.variant), (), ref.channel)
    elif ref is None:
        formerly = standing(repository, check_variant(subject)).formerly
        folders = [str(manifest_file(name).parent) for name in (subject, *formerly)]
        published = read_published(repository, subject, *formerly)
        report = report_log(subject, published, repository.log(folders), formerly=formerly)
    else:
        raise InvalidError(
            f"{subject} has no history of its own",
            where="varietal log",
            mend="name a variant, name:stage or name#channel",
        )
    if not report.json:
        raise NotFoundError(
            f"nothing is known of {subject}: no commit, no release, no channel",
            where=str(repository.root),
            mend="`varietal list` names the variants; commit what is new, or fetch first",
        )
    print_report(report, json=json)


def _lineage(
    ref: Annotated[str, typer.Argument(metavar="REF", help="A ref; with --down also a data file.")],
    *,
    down: Annotated[
        bool, typer.Option("--down", help="What was made from it, instead of what it was made from.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what an artifact was made from, down to data and pins; or what it touches."""
    from registry.index import Index
    from registry.lineage import ancestors, to_json, to_text
    from registry.refs import parse
    from registry.report import Report
    from registry.resolve import resolve

    repository = open_repository()
    with Index.open(repository) as index:
        if down:
            lineage = _descendants(repository, index, ref)
        else:
            record = resolve(repository, parse(ref)).record
            lineage = ancestors(record, lambda digest: [one.record for one in index.by_artifact(digest)])
    print_report(Report(to_json(lineage), to_text(lineage).splitlines()), json=json)


def _find(
    what: Annotated[
        str, typer.Argument(metavar="DIGEST|FILE", help="sha256: and 8 or more digits, or a file to hash.")
    ],
    *,
    json: Json = False,
) -> None:
    """Find where a digest occurs: as artifact, weights, action, input, file or tensor."""
    from registry.index import Index
    from registry.report import report_matches
    from registry.tensor_tables import take_tensor_tables

    repository = open_repository()
    prefix = _prefix(what)
    with Index.open(repository) as index:
        take_tensor_tables(index, repository, open_store())
        matches = [*_matches(index, prefix)]
    print_report(report_matches(matches), json=json)
    if not matches:
        raise _nothing_found(what)


def _index(*, json: Json = False) -> None:
    """Bring the index up to date, with the tensors of every artifact that this machine has."""
    from registry.index import Index
    from registry.report import report_index
    from registry.tensor_tables import take_tensor_tables

    repository = open_repository()
    with Index.open(repository) as index:
        refreshed = index.refresh()
        print_report(report_index(refreshed, take_tensor_tables(index, repository, open_store())), json=json)


def _prefix(what: str) -> str:
    """Hexadecimal digits of a digest that was typed, or of a file."""
    from registry.digest import digest_file
    from registry.refs import ByDigest

    if what.startswith("sha256:"):
        return ByDigest(what.removeprefix("sha256:")).prefix
    if not Path(what).is_file():
        raise InvalidError(
            f"{what!r} is neither a digest nor a file",
            where="varietal",
            mend="write sha256: and 8 or more digits, or a path",
        )
    return digest_file(Path(what)).hex


def _descendants(repository: Repository, index: Index, what: str) -> Lineage:
    from registry.lineage import descendants
    from registry.refs import parse
    from registry.resolve import resolve

    if what.startswith("sha256:") or Path(what).is_file():
        digest, name = _one(index, what), what
    else:
        record = resolve(repository, parse(what)).record
        digest, name = record.artifact.digest, record.ref
    return descendants(digest, name, lambda one: [sighting.record for sighting in index.by_input(one)])


def _one(index: Index, what: str) -> Digest:
    """The one artifact or data set that is meant."""
    from registry.errors import ConflictError

    prefix = _prefix(what)
    found = sorted({*index.artifacts(prefix), *index.inputs(prefix)})
    if len(found) > 1:
        raise ConflictError(
            f"{len(found)} digests start with {what}", where=", ".join(map(str, found[:5])), mend="write more digits"
        )
    if not found:
        raise _nothing_found(what)
    return found[0]


def _matches(index: Index, prefix: str) -> list[Match]:
    from registry.report import Match

    asked = (
        ("artifact", index.artifacts(prefix), index.by_artifact),
        ("weights", index.weights(prefix), index.by_weights),
        ("action", index.actions(prefix), index.by_action),
        ("input", index.inputs(prefix), index.by_input),
    )
    matches = [
        Match(role=role, digest=digest, name="", sightings=sightings(digest))
        for role, digests, sightings in asked
        for digest in digests
    ]
    held = (("file", index.holders_of_file(prefix)), ("tensor", index.holders_of_tensor(prefix)))
    matches += [
        Match(role=role, digest=holder.digest, name=holder.name, sightings=index.by_artifact(holder.artifact))
        for role, holders in held
        for holder in holders
    ]
    return matches


def _nothing_found(what: str) -> Exception:
    return NotFoundError(
        f"nothing here has the digest of {what}",
        where="the index of this repository",
        mend="fetch first; tensors are known of artifacts that were on this machine: `varietal index`",
    )
