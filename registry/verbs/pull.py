"""``varietal pull``: by git and a DVC remote, or by signed descriptors on a plain web server."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path  # noqa: TC003 - Typer reads it
from typing import TYPE_CHECKING, Annotated

import typer

from registry.terminal import (
    Command,
    Json,
    RefText,
    cache_folder,
    open_repository,
    open_store,
    print_report,
    say,
)

if TYPE_CHECKING:
    from registry.pull import PullReport
    from registry.remote import Source
    from registry.verify import Found

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("pull", cls=Command)(_pull)


def _pull(
    ref: RefText,
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    *,
    repo: Annotated[str, typer.Option(help="Git URL, where there is no checkout here.")] = "",
    remote: Annotated[str, typer.Option(help="DVC remote to ask; the default one if none.")] = "",
    server: Annotated[str, typer.Option("--from", help="Web address of the remote: no git and no DVC are used.")] = "",
    trust: Annotated[
        Path | None, typer.Option(help="With --from: file of the SSH public keys that are trusted.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another artifact in the folder.")] = False,
    json: Json = False,
) -> None:
    """Fetch an artifact into a folder that shows only when every byte is proven."""
    from registry.errors import InvalidError
    from registry.report import report_pull

    deprecated = ""
    if server or trust is not None:
        if not server or trust is None or repo or remote:
            raise InvalidError(
                "--from and --trust go together, without --repo and --remote",
                where="varietal pull",
                mend="write --from https://host/folder --trust FILE",
            )
        found, report = _from_server(ref, folder, server, trust, force=force)
    else:
        found, report, deprecated = _from_repository(ref, folder, repo, remote, force=force)
    warned = (f"{found.record.variant} is deprecated: {deprecated}",) if deprecated else ()
    for note in (*found.warnings, *report.notes, *warned):
        say(note)
    print_report(report_pull(found, report, deprecated), json=json)


def _from_repository(ref: str, folder: Path, repo: str, remote: str, *, force: bool) -> tuple[Found, PullReport, str]:
    from registry.mirror import mirror, remote_settings
    from registry.pull import fetch
    from registry.refs import parse
    from registry.remote import DvcCache, DvcRemote
    from registry.resolve import resolve
    from registry.standing import standing

    repository = mirror(repo, cache_folder() / "repositories") if repo else open_repository()
    found = resolve(repository, parse(ref))
    with remote_settings(repository) if repo else nullcontext(repository.root) as root:
        sources: list[Source] = [DvcRemote(root, remote)] if repo else [DvcCache(root), DvcRemote(root, remote)]
        report = fetch(
            found.record, found.listing_oid, folder, sources=sources, store=open_store(), say=say, force=force
        )
    return found, report, standing(repository, found.record.variant).deprecated


def _from_server(ref: str, folder: Path, server: str, trust: Path, *, force: bool) -> tuple[Found, PullReport]:
    from datetime import UTC, datetime

    from registry.described import resolve_described
    from registry.errors import InvalidError
    from registry.plain_file import read_plain
    from registry.pull import fetch
    from registry.refs import Channel, Version, parse
    from registry.seen import Seen
    from registry.ssh_key import read_keys
    from registry.web import WebSource

    wanted = parse(ref)
    if not isinstance(wanted, Version | Channel):
        raise InvalidError(
            f"{ref} has no descriptor", where="varietal pull --from", mend="write name@v1.2.0 or name#prod"
        )
    keys = read_keys(read_plain(trust, max_bytes=1 << 20).decode("utf-8", errors="replace"), where=str(trust))
    source = WebSource(server)
    described = resolve_described(wanted, source, keys, Seen(cache_folder() / "channels"), datetime.now(UTC))
    report = fetch(
        described.found.record,
        described.objects,
        folder,
        sources=[source],
        store=open_store(),
        say=say,
        force=force,
    )
    return described.found, report
