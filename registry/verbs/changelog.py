"""``varietal changelog``: what changed from release to release of a variant, told from its tags."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.terminal import Command, Json, open_repository, print_report, say

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to a command."""
    app.command("changelog", cls=Command)(_changelog)


def _changelog(
    variant: Annotated[str, typer.Argument(metavar="NAME", help="A variant.")],
    *,
    write: Annotated[bool, typer.Option("--write", help="Write models/NAME/CHANGELOG.md, to be committed.")] = False,
    json: Json = False,
) -> None:
    """Show what changed from release to release, newest first."""
    from registry.changelog import changelog_file, changelog_json, changelog_text
    from registry.errors import NotFoundError
    from registry.refs import check_variant
    from registry.report import Report
    from registry.signers import read_published

    repository = open_repository()
    published = read_published(repository, check_variant(variant))
    path = changelog_file(variant)
    if variant not in published.releases or (write and not (repository.root / path.parent).is_dir()):
        raise NotFoundError(
            f"{variant} has no release here",
            where="tags of the repository",
            mend="`git fetch --tags`, or `varietal release`",
        )
    text = changelog_text(variant, published)
    print_report(Report(changelog_json(variant, published), text.splitlines()), json=json)
    if write:
        (repository.root / path).write_text(text, encoding="utf-8")
        say(f"wrote {path}")
