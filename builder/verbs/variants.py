"""``varietal rename``, ``deprecate`` and ``remove``: the later life of a variant."""

from __future__ import annotations

from typing import Annotated

import typer

from builder.terminal import Json, answer, repository_root, say
from registry.errors import InvalidError

__all__ = ["register"]

Variant = Annotated[str, typer.Argument(help="Name of a variant: a folder under models/.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to a command."""
    app.command("rename")(_rename)
    app.command("deprecate")(_deprecate)
    app.command("remove")(_remove)


def _rename(old: Variant, new: Annotated[str, typer.Argument(help="Its new name.")], *, json: Json = False) -> None:
    """Give a variant another name, here and in every manifest that starts from it; nothing is trained again."""
    from builder.start.rename import rename
    from registry.history import Repository

    done = rename(Repository(repository_root()), old, new)
    answer(json, done.to_json(), done.lines())
    say("next: `dvc repro`, which links what was built, then `git add --all` and commit")


def _deprecate(
    variant: Variant,
    *,
    reason: Annotated[str, typer.Option(help="Why it should no longer be used.")] = "",
    in_favour_of: Annotated[str, typer.Option(metavar="VARIANT", help="What to take instead.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    json: Json = False,
) -> None:
    """Say of a variant that it should no longer be used; `list`, `show` and `pull` then tell."""
    from builder.start.deprecation import deprecate, undo_deprecation

    if undo:
        if reason or in_favour_of:
            raise InvalidError("--undo together with a reason", where="varietal deprecate", mend="keep one of them")
        undo_deprecation(repository_root(), variant)
        answer(json, {"variant": variant, "deprecated": None}, [f"{variant} is no longer deprecated"])
        return
    said = deprecate(repository_root(), variant, reason=reason, instead=in_favour_of)
    answer(json, {"variant": variant, "deprecated": said}, [f"{variant} is deprecated: {said}"])


def _remove(
    variant: Variant,
    *,
    force: Annotated[bool, typer.Option("--force", help="Although a channel points at a release of it.")] = False,
    json: Json = False,
) -> None:
    """Take a variant out of the tree; its history and its releases stay, and can be pulled."""
    from builder.start.removal import remove
    from registry.history import Repository

    done = remove(Repository(repository_root()), variant, force=force)
    answer(json, done.to_json(), done.lines())
    say("next: commit")
