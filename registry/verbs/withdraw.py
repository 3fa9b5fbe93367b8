"""``varietal withdraw``: takes a release back."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.terminal import Command, Json, open_repository, print_report, say
from registry.verbs.move import Push  # noqa: TC001 - Typer reads it

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("withdraw", cls=Command)(_withdraw)


def _withdraw(
    ref: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A release.")],
    *,
    reason: Annotated[str, typer.Option(help="Why, in one line; it is kept in the tag.")] = "",
    in_use: Annotated[bool, typer.Option("--in-use", help="Even if a channel points at it: its pulls fail.")] = False,
    push: Push = False,
    json: Json = False,
) -> None:
    """Take a release back: it stays listed, and is neither pulled nor promoted any more."""
    from registry.errors import InvalidError
    from registry.origin import compare_with_origin
    from registry.refs import Version, parse
    from registry.releases import withdraw
    from registry.report import report_tag
    from registry.signers import read_published
    from registry.tagging import make_tags

    version = parse(ref)
    if not isinstance(version, Version):
        raise InvalidError(f"{ref} is not a release", where="varietal withdraw", mend="write name@v1.2.0")
    repository = open_repository()
    compare_with_origin(repository, [version.variant], say)
    tag = withdraw(version, reason, read_published(repository, version.variant), in_use=in_use)
    make_tags(repository, [tag], push=push)
    print_report(report_tag(tag), json=json)
    if not push:
        say(f"next: `git push origin '{tag.name}'`")
