"""``varietal init``: a team's repository in one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builder.terminal import Json, answer, say
from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.start.workflows import Host
    from registry.digest import Digest

__all__ = ["register"]

_NO_HOST = "none"


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("init")(_init)


def _init(
    folder: Annotated[Path, typer.Argument(help="Folder of the repository; made if it is not there.")] = Path(),
    *,
    base: Annotated[list[str], typer.Option(help="A base model in that folder, as NAME=PATH; may be repeated.")] = [],  # noqa: B006 - read only
    remote: Annotated[str, typer.Option(help="URL or path for the bytes; else a folder beside the repository.")] = "",
    tool: Annotated[
        str, typer.Option(help="Where workflows install varietal from: 'varietal @ URL#sha256=...', or ==X --hash=...")
    ] = "",
    ci: Annotated[list[str], typer.Option(help="Whose workflows: github (if none is said), gitlab or none.")] = [],  # noqa: B006 - read only
    json: Json = False,
) -> None:
    """Make a repository for variants: git, DVC with a remote, pipelines, params.yaml, workflows."""
    from builder.init import init

    bases = [_parse_base(folder, text) for text in base]
    if twice := sorted({name for name, _ in bases if [one for one, _ in bases].count(name) > 1}):
        raise InvalidError(f"{twice[0]} is given twice", where="--base", mend="give each base a name of its own")
    hosts = _hosts(ci or ["github"])
    begun = init(folder, dict(bases), remote=remote, hosts=hosts, tool=tool)
    answer(json, begun.to_json(), [f"wrote {path}" for path in begun.written])
    for path in begun.kept:
        say(f"left as it was: {path}")
    if begun.remote:
        say(f"bytes go to the DVC remote {begun.remote}, as .dvc/config has it")
    enter = "" if folder == Path() else f"cd {folder} && "
    say(f"next: `{enter}git add . && git commit -m 'Begin'`, then `varietal new NAME`")
    for line in _conditions(hosts, said=bool(tool) or "requirements.txt" in begun.kept):
        say(line)


def _conditions(hosts: list[Host], *, said: bool) -> list[str]:
    """What workflows need that no file can give; without it, a request may reach what it must not."""
    if not hosts:
        return []
    lines = [] if said else ["before any workflow runs: write into requirements.txt where varietal is installed from"]
    if "github" in hosts:
        lines.append(
            "before a GPU runner is added: put it into a runner group that is limited to the workflow "
            "OWNER/REPOSITORY/.github/workflows/build.yml@refs/heads/main, or start it for one job from there; and let "
            "Actions require approval for all outside collaborators. Without it a request reaches the runner by a "
            "workflow of its own, which nobody has approved"
        )
    if "gitlab" in hosts:
        lines.append(
            "before a GPU runner is added: mark it protected, with the variables; else a request reaches it by a job "
            "of its own"
        )
    return [*lines, "README.md has the rest, under `Before the first build`"]


def _hosts(names: list[str]) -> list[Host]:
    from builder.start.workflows import HOSTS

    if unknown := [name for name in names if name not in (*HOSTS, _NO_HOST)]:
        raise InvalidError(f"{unknown[0]!r} is unknown", where="--ci", mend="write github, gitlab or none")
    return [host for host in HOSTS if host in names]


def _parse_base(root: Path, text: str) -> tuple[str, tuple[str, Digest]]:
    from builder.manifest import parse_project
    from builder.sources import folder_pin

    name, _, path = text.partition("=")
    if not name or not path:
        raise InvalidError(f"{text!r} is not NAME=PATH", where="--base", mend="write --base tiny=sources/tiny")
    pin = folder_pin(root / path)
    parse_project({"bases": {name: {"path": path, "sha256": pin.hex}}})  # what is written must be read again
    return name, (path, pin)
