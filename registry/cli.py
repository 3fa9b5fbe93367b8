"""The registry's verbs: parse, call, print. Rules are elsewhere; errors end in the ``main`` of the command."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from registry.canonical import pretty
from registry.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from typer._click import Context

    from registry.digest import Digest
    from registry.history import Repository
    from registry.index import Index
    from registry.lineage import Lineage
    from registry.published import Published
    from registry.releases import NewTag
    from registry.remote import Source
    from registry.report import Match, Report
    from registry.store import Store

__all__ = ["Group", "RefText", "open_store", "print_report", "register"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RefText = Annotated[
    str, typer.Argument(metavar="REF", help="name@v1.2.0, name#channel, name:stage, name:stage@revision or sha256:...")
]


class _Command(TyperCommand):
    """A verb that starts fast."""

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        """The option ``--help``, which is off where it is not given; Typer would load pydantic to find that out."""
        return _off(super().get_help_option(ctx))


class Group(TyperGroup):
    """The command, starting fast."""

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        """The option ``--help``, as for a verb."""
        return _off(super().get_help_option(ctx))


def register(app: typer.Typer) -> None:
    """Add the verbs to a command."""
    for verb in (_list, _show, _log, _lineage, _find, _promote, _rollback, _pull, _index):
        app.command(verb.__name__.removeprefix("_"), cls=_Command)(verb)


def open_store() -> Store:
    """The local content store: the folder that VARIETAL_STORE names, else ``~/.cache/varietal``."""
    from registry.store import Store

    return Store(_cache_folder())


def _list(*, json: Json = False) -> None:
    """List the variants: newest release, and what each channel points at."""
    from registry.refs import is_variant
    from registry.report import report_variants

    repository = _repository()
    variants = [
        path.parent.name for path in repository.root.glob("models/*/model.yaml") if is_variant(path.parent.name)
    ]
    published = _published(repository)
    for problem in published.problems():
        _say(_harmless(f"left out, {problem.where}: {problem.what}"))
    print_report(report_variants(variants, published), json=json)


def _show(ref: RefText, *, json: Json = False) -> None:
    """Show the record of an artifact: what it is, how it was made, what was measured."""
    from registry.refs import parse
    from registry.report import report_record
    from registry.resolve import resolve

    print_report(report_record(resolve(_repository(), parse(ref))), json=json)


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

    repository = _repository()
    ref = parse(subject) if set(subject) & set("@#:") else None
    if isinstance(ref, Stage):
        commits = repository.log([str(git_record(ref.variant, ref.stage))], ref.revision or "HEAD")
        published = Published(releases={}, assignments={}, withdrawn=frozenset())
        report = report_log(ref.variant, published, commits)
    elif isinstance(ref, Channel):
        report = report_log(ref.variant, _published(repository, ref.variant), (), ref.channel)
    elif ref is None:
        folder = str(manifest_file(check_variant(subject)).parent)
        report = report_log(subject, _published(repository, subject), repository.log([folder]))
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

    repository = _repository()
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

    repository = _repository()
    prefix = _prefix(what)
    with Index.open(repository) as index:
        take_tensor_tables(index, repository, open_store())
        matches = [*_matches(index, prefix)]
    print_report(report_matches(matches), json=json)
    if not matches:
        raise _nothing_found(what)


def _promote(
    ref: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A release.")],
    channel: Annotated[str, typer.Argument(help="The channel, such as prod.")],
    *,
    json: Json = False,
) -> None:
    """Point a channel at a release."""
    from registry.refs import Version, parse
    from registry.releases import promote

    version = parse(ref)
    if not isinstance(version, Version):
        raise InvalidError(f"{ref} is not a release", where="varietal promote", mend="write name@v1.2.0")
    repository = _repository()
    _make(repository, promote(version, channel, _published(repository, version.variant)), json=json)


def _rollback(
    ref: Annotated[str, typer.Argument(metavar="NAME#CHANNEL", help="A channel.")],
    *,
    json: Json = False,
) -> None:
    """Point a channel back at the release before."""
    from registry.refs import Channel, parse
    from registry.releases import rollback

    channel = parse(ref)
    if not isinstance(channel, Channel):
        raise InvalidError(f"{ref} is not a channel", where="varietal rollback", mend="write name#prod")
    repository = _repository()
    _make(repository, rollback(channel, _published(repository, channel.variant)), json=json)


def _pull(
    ref: RefText,
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    *,
    repo: Annotated[str, typer.Option(help="Git URL, where there is no checkout here.")] = "",
    remote: Annotated[str, typer.Option(help="DVC remote to ask; the default one if none.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace another artifact in the folder.")] = False,
    json: Json = False,
) -> None:
    """Fetch an artifact into a folder that shows only when every byte is proven."""
    from registry.mirror import mirror, remote_settings
    from registry.pull import fetch
    from registry.refs import parse
    from registry.remote import DvcCache, DvcRemote
    from registry.report import report_pull
    from registry.resolve import resolve

    repository = mirror(repo, _cache_folder() / "repositories") if repo else _repository()
    found = resolve(repository, parse(ref))
    with remote_settings(repository) if repo else nullcontext(repository.root) as root:
        sources: list[Source] = [DvcRemote(root, remote)] if repo else [DvcCache(root), DvcRemote(root, remote)]
        report = fetch(
            found.record, found.listing_oid, folder, sources=sources, store=open_store(), say=_say, force=force
        )
    for note in report.notes:
        _say(note)
    print_report(report_pull(found, report), json=json)


def _index(*, json: Json = False) -> None:
    """Bring the index up to date, with the tensors of every artifact that this machine has."""
    from registry.index import Index
    from registry.report import report_index
    from registry.tensor_tables import take_tensor_tables

    repository = _repository()
    with Index.open(repository) as index:
        refreshed = index.refresh()
        print_report(report_index(refreshed, take_tensor_tables(index, repository, open_store())), json=json)


def _off(option: TyperOption | None) -> TyperOption | None:
    if option is not None:
        option.default = False
    return option


def _repository() -> Repository:
    from registry.history import Repository

    return Repository.open(Path.cwd())


def _published(repository: Repository, variant: str = "") -> Published:
    from registry.published import Published

    patterns = (f"{variant}@*", f"{variant}#*") if variant else ()
    return Published.read(repository.tags(*patterns, messages=True))


def _cache_folder() -> Path:
    return Path(os.environ.get("VARIETAL_STORE") or "~/.cache/varietal").expanduser()


def _make(repository: Repository, tag: NewTag, *, json: bool) -> None:
    from registry.report import report_tag

    repository.create_tag(tag.name, tag.commit, tag.message)
    print_report(report_tag(tag), json=json)
    _say(f"next: `git push origin '{tag.name}'`")


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


def print_report(report: Report, *, json: bool) -> None:
    """Print an answer, in the form that was asked for."""
    text = pretty(report.json).decode() if json else "".join(f"{_harmless(line)}\n" for line in report.lines)
    sys.stdout.write(text)
    sys.stdout.flush()


def _harmless(line: str) -> str:
    """A line that steers no terminal, whatever a commit or a record of others says in it."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
