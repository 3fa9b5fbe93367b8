"""``varietal describe``: signed descriptors on the remote, for hosts without git; and what other verbs need for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry.terminal import Command, Json, open_repository, open_store, print_report, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.history import Repository
    from registry.refs import Channel, Version

__all__ = ["Keys", "Remote", "ValidDays", "publish", "register"]

Keys = Annotated[
    list[Path],
    typer.Option("--key", help="SSH key that signs the descriptor; repeated while hosts change from one to another."),
]
Remote = Annotated[str, typer.Option(help="DVC remote; the default one if none.")]
ValidDays = Annotated[int, typer.Option(min=1, max=3660, help="Days that the descriptor of a channel is good.")]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("describe", cls=Command)(_describe)


def publish(
    repository: Repository, refs: Sequence[Version | Channel], *, keys: Sequence[Path], remote: str, valid_days: int
) -> list[str]:
    """Write the descriptors of these refs; returns the paths on the remote that were written.

    Raises:
        Error: What :func:`registry.describe.describe` and :func:`registry.main_settings.main_settings` raise.
    """
    from datetime import UTC, datetime

    from registry.describe import Publisher, describe
    from registry.main_settings import main_settings
    from registry.remote import DvcRemote
    from registry.remote_files import RemoteFiles

    with main_settings(repository) as root:
        publisher = Publisher(
            source=DvcRemote(root, remote),
            files=RemoteFiles(root, remote),
            store=open_store(),
            keys=keys,
            valid_days=valid_days,
            say=say,
        )
        now = datetime.now(UTC)
        return [path for ref in refs for path in describe(repository, ref, publisher, now)]


def _describe(
    refs: Annotated[list[str], typer.Argument(metavar="REF...", help="name@v1.2.0, or name#channel.")],
    *,
    key: Keys,
    remote: Remote = "",
    valid_days: ValidDays = 30,
    json: Json = False,
) -> None:
    """Put signed descriptors of releases and channels on the remote: what hosts without git pull by."""
    from registry.errors import InvalidError
    from registry.refs import Channel, Version, parse
    from registry.report import Report

    wanted = [parse(ref) for ref in refs]
    sound = [ref for ref in wanted if isinstance(ref, Version | Channel)]
    if len(sound) < len(wanted):
        raise InvalidError(
            "only releases and channels have descriptors",
            where="varietal describe",
            mend="write name@v1.2.0 or name#prod",
        )
    written = publish(open_repository(), sound, keys=key, remote=remote, valid_days=valid_days)
    print_report(
        Report({"written": [*written]}, [f"wrote {path}" for path in written] or ["nothing to write"]), json=json
    )
