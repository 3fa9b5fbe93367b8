"""``varietal publish``: bytes to a remote, locks and records to a branch; on merge, bytes out of quarantine."""

from __future__ import annotations

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
    promote: Annotated[
        bool, typer.Option("--promote", help="On main after a merge: bytes from quarantine to the default remote.")
    ] = False,
    json: Json = False,
) -> None:
    """Send what was built: bytes to the remote, then locks and records to the branch, if nobody was faster."""
    from builder.request.promote import promote_bytes
    from registry.history import Repository
    from registry.terminal import open_store

    repository = Repository(repository_root())
    if promote:
        if request or branch:
            raise InvalidError(
                "--promote takes no request and no branch",
                where="varietal publish",
                mend="check main out, then promote",
            )
        promoted = promote_bytes(repository, remote, store=open_store(), say=say)
        lines = [f"{ref} is on the default remote" for ref in promoted.stages]
        answer(json, promoted.to_json(), lines or ["nothing to promote"])
        return
    done = _of_request(repository, request, branch, remote) if request else _of_branch(repository, branch, remote)
    words = f"{done.branch} is at {done.commit[:12]}" if done.moved else f"{done.branch} has all of it already"
    answer(json, done.to_json(), [words, *(f"  {home}" for home in done.homes)])


def _of_branch(repository: Repository, branch: str, remote: str) -> Published:
    from builder.request.publish import publish_branch
    from registry.terminal import open_store

    return publish_branch(repository, branch, remote, store=open_store(), say=say)


def _of_request(repository: Repository, request: str, branch: str, remote: str) -> Published:
    from builder.request.machine import quarantine_of
    from builder.request.open import branch_of, open_built
    from builder.request.publish import publish_request
    from registry.terminal import open_store

    assembled = open_built(repository, request)
    return publish_request(
        repository,
        assembled,
        branch or branch_of(repository, request),
        remote or quarantine_of(assembled.root),
        may_create=bool(branch),
        store=open_store(),
        say=say,
    )
