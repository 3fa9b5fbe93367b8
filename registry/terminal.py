"""What the registry's verbs share: where they stand, how they answer, and a command that starts fast."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from registry.canonical import pretty

if TYPE_CHECKING:
    from typer._click import Context

    from registry.history import Repository
    from registry.report import Report
    from registry.store import Store

__all__ = [
    "Command",
    "Group",
    "Json",
    "RefText",
    "cache_folder",
    "harmless",
    "open_repository",
    "open_store",
    "print_report",
    "say",
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RefText = Annotated[
    str, typer.Argument(metavar="REF", help="name@v1.2.0, name#channel, name:stage, name:stage@revision or sha256:...")
]


class Command(TyperCommand):
    """A verb that starts fast."""

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        """The option ``--help``, which is off where it is not given; Typer would load pydantic to find that out."""
        return _off(super().get_help_option(ctx))


class Group(TyperGroup):
    """The command, starting fast."""

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        """The option ``--help``, as for a verb."""
        return _off(super().get_help_option(ctx))


def open_repository() -> Repository:
    """The repository that the command was called in.

    Raises:
        NotFoundError: It was called in none.
    """
    from registry.history import Repository  # noqa: PLC0415 - not needed by every verb

    return Repository.open(Path.cwd())


def cache_folder() -> Path:
    """The folder that VARIETAL_STORE names, else ``~/.cache/varietal``."""
    return Path(os.environ.get("VARIETAL_STORE") or "~/.cache/varietal").expanduser()


def open_store() -> Store:
    """The local content store, in the cache folder."""
    from registry.store import Store  # noqa: PLC0415 - not needed by every verb

    return Store(cache_folder())


def print_report(report: Report, *, json: bool) -> None:
    """Print an answer, in the form that was asked for."""
    text = pretty(report.json).decode() if json else "".join(f"{harmless(line)}\n" for line in report.lines)
    sys.stdout.write(text)
    sys.stdout.flush()


def say(line: str) -> None:
    """Tell the person at the terminal."""
    sys.stderr.write(f"{harmless(line)}\n")


def harmless(line: str) -> str:
    """A line that steers no terminal, whatever a commit or a record of others says in it."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)


def _off(option: TyperOption | None) -> TyperOption | None:
    if option is not None:
        option.default = False
    return option
