"""``varietal release``: one version of a variant, or of several at once, and what is new in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from builder.terminal import Json, answer, repository_root, say
from registry.terminal import open_store
from registry.verbs.describe import Keys, publish
from registry.verbs.move import Push  # noqa: TC001 - Typer reads it

if TYPE_CHECKING:
    from registry.canonical import JSON

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("release")(_release)


def _release(
    refs: Annotated[list[str], typer.Argument(metavar="NAME@VERSION...", help="Variant and version: name@v1.0.0.")],
    *,
    remote: Annotated[str, typer.Option(help="DVC remote that must have the bytes; the default one if none.")] = "",
    notes: Annotated[bool, typer.Option("--notes", help="Print what is new, and make no tag.")] = False,
    push: Push = False,
    key: Keys = [],  # noqa: B006 - read only
    json: Json = False,
) -> None:
    """Tag versions: on the main branch, checks passed, lock fresh, bytes on the remote; all of them, or none."""
    from builder.release import Wish, preview_notes, release_variants
    from registry.errors import InvalidError
    from registry.history import Repository
    from registry.refs import Version
    from registry.tag_message import read_notes

    root = repository_root()
    if notes:
        if push or key:
            raise InvalidError("--notes together with --push or --key", where="varietal release", mend="keep one")
        told = preview_notes(root, refs, store=open_store(), say=say)
        answer(
            json, {ref: [*lines] for ref, lines in told.items()}, [one for item in told.items() for one in _told(*item)]
        )
        return
    tags = release_variants(root, refs, Wish(remote=remote, push=push), store=open_store(), say=say)
    news = {tag.name: read_notes(tag.message) for tag in tags}
    lines = [line for tag in tags for line in (f"{tag.name} is commit {tag.commit}", *news[tag.name])]
    versions = [Version(*tag.name.split("@")) for tag in tags]
    written = publish(Repository(root), versions, keys=key, remote=remote, valid_days=1) if key else []
    rows: list[JSON] = [{"tag": tag.name, "commit": tag.commit, "notes": [*news[tag.name]]} for tag in tags]
    value: JSON = {"tag": tags[0].name, "commit": tags[0].commit, "tags": rows, "written": [*written]}
    answer(json, value, [*lines, *(f"wrote {path}" for path in written)])
    if not push:
        say(f"next: `git push --atomic origin {' '.join(tag.name for tag in tags)}`")
    say(f"then: `varietal promote {tags[0].name} CHANNEL`")


def _told(ref: str, notes: tuple[str, ...]) -> tuple[str, ...]:
    """A ref, and what is new in it."""
    return (ref, *notes)
