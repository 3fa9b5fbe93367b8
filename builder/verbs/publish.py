"""``varietal publish``: bytes to a remote, locks and records to a branch; on merge, bytes out of quarantine."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from builder.terminal import Json, answer, repository_root, say
from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.request.publish import Published
    from registry.history import Repository

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("publish")(_publish)


def _publish(
    *,
    request: Annotated[str, typer.Option(help="Request that was built here: its branch or commit.")] = "",
    branch: Annotated[str, typer.Option(help="Branch of the origin that gets locks and records.")] = "",
    remote: Annotated[str, typer.Option(help="DVC remote for the bytes.")] = "",
    handed: Annotated[
        Path | None,
        typer.Option("--from", help="With --request: folder of locks and records that a build handed over."),
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="With --request: read back, too, what was sent from here before.")
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="On main after a merge: bytes from quarantine to the default remote.")
    ] = False,
    retire: Annotated[
        bool, typer.Option("--retire", help="Drop branches that keep what was built for requests that main has.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --retire: drop none, say which.")] = False,
    json: Json = False,
) -> None:
    """Send what was built: bytes to the remote, then locks and records to the branch, if nobody was faster."""
    from builder.request.promote import promote_bytes
    from registry.history import Repository
    from registry.terminal import open_store

    repository = Repository(repository_root())
    if retire or dry_run:
        if not retire or request or branch or handed or remote or prove or promote:
            raise InvalidError(
                "--retire and --dry-run take no other option",
                where="varietal publish",
                mend="write `varietal publish --retire`, perhaps with --dry-run",
            )
        _retire(repository, dry_run=dry_run, json=json)
        return
    if promote:
        if request or branch or handed:
            raise InvalidError(
                "--promote takes no request, no branch and no folder",
                where="varietal publish",
                mend="check main out, then promote",
            )
        promoted = promote_bytes(repository, remote, store=open_store(), say=say)
        lines = [f"{ref} is on the default remote" for ref in promoted.stages]
        answer(json, promoted.to_json(), lines or ["nothing to promote"])
        return
    if (handed or prove) and not request:
        option = "--from" if handed else "--prove"
        raise InvalidError(f"{option} without --request", where="varietal publish", mend="say which request was built")
    done = (
        _of_request(repository, request, branch, remote, handed, prove=prove)
        if request
        else _of_branch(repository, branch, remote)
    )
    words = f"{done.branch} is at {done.commit[:12]}" if done.moved else f"{done.branch} has all of it already"
    answer(json, done.to_json(), [words, *(f"  {home}" for home in done.homes)])


def _retire(repository: Repository, *, dry_run: bool, json: bool) -> None:
    from builder.request.retire import builds_over, drop_builds

    over = builds_over(repository)
    if not dry_run:
        drop_builds(repository, over)
    names = [one.branch for one in over]
    answer(json, {"retired": [*names], "written": not dry_run}, names or ([] if dry_run else ["nothing to retire"]))


def _of_branch(repository: Repository, branch: str, remote: str) -> Published:
    from builder.request.publish import publish_branch
    from registry.terminal import open_store

    return publish_branch(repository, branch, remote, store=open_store(), say=say)


def _of_request(
    repository: Repository, request: str, branch: str, remote: str, handed: Path | None, *, prove: bool
) -> Published:
    from builder.request.handover import open_handed
    from builder.request.machine import quarantine_of
    from builder.request.open import branch_of, open_built
    from builder.request.publish import publish_request
    from registry.terminal import open_store

    assembled = open_built(repository, request) if handed is None else open_handed(repository, request, handed)
    return publish_request(
        repository,
        assembled,
        branch or branch_of(repository, request),
        remote or quarantine_of(repository.root),
        may_create=bool(branch),
        prove=prove,
        store=open_store(),
        say=say,
    )
