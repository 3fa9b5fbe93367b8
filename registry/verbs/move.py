"""``varietal promote`` and ``varietal rollback``: one command moves a channel, and all that follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from registry.terminal import Command, Json, open_repository, print_report, say
from registry.verbs.describe import Keys, Remote, ValidDays, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from registry.canonical import JSON
    from registry.published import Published
    from registry.refs import Channel
    from registry.releases import NewTag

__all__ = ["Push", "register"]

Push = Annotated[bool, typer.Option("--push", help="Push the tag to the origin; without, that is left to you.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to a command."""
    app.command("promote", cls=Command)(_promote)
    app.command("rollback", cls=Command)(_rollback)


def _promote(
    ref: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A release.")],
    channel: Annotated[str, typer.Argument(help="The channel, such as prod.")],
    *,
    push: Push = False,
    key: Keys = [],  # noqa: B006 - read only
    remote: Remote = "",
    valid_days: ValidDays = 30,
    json: Json = False,
) -> None:
    """Point a channel at a release."""
    from registry.errors import InvalidError
    from registry.refs import Channel, Version, parse
    from registry.releases import promote

    version = parse(ref)
    if not isinstance(version, Version):
        raise InvalidError(f"{ref} is not a release", where="varietal promote", mend="write name@v1.2.0")
    _move(
        Channel(version.variant, channel),
        lambda published: promote(version, channel, published),
        push=push,
        keys=key,
        remote=remote,
        valid_days=valid_days,
        json=json,
    )


def _rollback(
    ref: Annotated[str, typer.Argument(metavar="NAME#CHANNEL", help="A channel.")],
    *,
    push: Push = False,
    key: Keys = [],  # noqa: B006 - read only
    remote: Remote = "",
    valid_days: ValidDays = 30,
    json: Json = False,
) -> None:
    """Point a channel back at the release before."""
    from registry.errors import InvalidError
    from registry.refs import Channel, parse
    from registry.releases import rollback

    channel = parse(ref)
    if not isinstance(channel, Channel):
        raise InvalidError(f"{ref} is not a channel", where="varietal rollback", mend="write name#prod")
    _move(
        channel,
        lambda published: rollback(channel, published),
        push=push,
        keys=key,
        remote=remote,
        valid_days=valid_days,
        json=json,
    )


def _move(
    channel: Channel,
    decide: Callable[[Published], NewTag],
    *,
    push: bool,
    keys: Sequence[Path],
    remote: str,
    valid_days: int,
    json: bool,
) -> None:
    """Tag, push, describe, in this order; only what is on the main branch.

    Raises:
        RefusedError: The release is not on it.
    """
    from registry.mainline import check_on_main, off_main
    from registry.origin import compare_with_origin
    from registry.report import Report, report_tag
    from registry.signers import create_assignment, read_published
    from registry.tagging import make_tags

    repository = open_repository()
    compare_with_origin(repository, [channel.variant], say)
    published = read_published(repository, channel.variant)
    for line in published.refused(channel):
        say(line)
    tag = decide(published)
    check_on_main(f"{channel} is not moved", off_main(repository, tag.commit))
    make_tags(repository, [tag], push=push, create=lambda one: create_assignment(repository, one, channel.channel))
    report = report_tag(tag)
    if not push:
        say(f"next: `git push origin '{tag.name}'`")
    written = publish(repository, [channel], keys=keys, remote=remote, valid_days=valid_days) if keys else []
    value: JSON = {"tag": tag.name, "commit": tag.commit, "written": [*written]}
    print_report(Report(value, [*report.lines, *(f"wrote {path}" for path in written)]), json=json)
