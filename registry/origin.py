"""What the origin has of a variant's tags, and how new ones get there: all of them or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import ConflictError, MachineError
from registry.history import last_line
from registry.push_refusal import already_there, push_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from registry.history import Repository

__all__ = ["check_tags", "compare_with_origin", "push_tags"]

_ORIGIN = "origin"
_LOOK_S = 30.0
_PUSH_S = 300.0
_MOST = 5  # tags named in a message


def compare_with_origin(repository: Repository, variants: Sequence[str], say: Callable[[str], None]) -> None:
    """See that the origin has no tag of these variants that is unknown or another one here.

    Without an origin there is nothing to compare; one that does not answer is told and waited for no longer, since a
    rollback must be possible without it.

    Raises:
        ConflictError: It has such a tag.
    """
    if repository.ask("config", "--get", f"remote.{_ORIGIN}.url").returncode:
        return
    patterns = [f"refs/tags/{variant}{mark}*" for variant in variants for mark in "@#"]
    try:
        done = repository.ask("ls-remote", "--quiet", "--refs", "--", _ORIGIN, *patterns, timeout_s=_LOOK_S)
    except MachineError as error:
        say(f"the origin was not asked for newer tags: {error.what}")
        return
    if done.returncode:
        say(f"the origin was not asked for newer tags: {last_line(done.stderr)}")
        return
    here = repository.ask("for-each-ref", "--format=%(objectname)%09%(refname)", "--", *patterns)
    check_tags(_table(here.stdout), _table(done.stdout))


def check_tags(here: Mapping[str, str], there: Mapping[str, str]) -> None:
    """Hold tags here against those at the origin, object ids by name; what is here only will be pushed.

    Raises:
        ConflictError: The origin has one that is not here, or is another one here.
    """
    if moved := sorted(name for name, oid in there.items() if here.get(name, oid) != oid):
        raise ConflictError(
            f"not the same here and at the origin: {_some(moved)}",
            where="tags of the repository",
            mend="a release never moves: ask who made the other one; to take the origin's, "
            "`git tag -d NAME` and `git fetch --tags`",
        )
    if missing := sorted(set(there) - set(here)):
        raise ConflictError(
            f"the origin has tags that are not here: {_some(missing)}",
            where="tags of the repository",
            mend="`git fetch --tags`, look at what is new, and try again",
        )


def push_tags(repository: Repository, names: Sequence[str]) -> None:
    """Push tags to the origin; one that it does not take keeps all of them back.

    Raises:
        ConflictError: The origin has a tag of one of these names.
        DeniedError: A rule or a hook of the origin lets you push no such tag, or it refuses the credentials.
        TransportError: The origin does not answer.
    """
    refs = [f"refs/tags/{name}:refs/tags/{name}" for name in names]
    done = repository.ask("push", "--quiet", "--atomic", "--", _ORIGIN, *refs, timeout_s=_PUSH_S)
    if done.returncode == 0:
        return
    if already_there(done.stderr):
        raise ConflictError(
            f"the origin has one of these already: {', '.join(names)}",
            where="git push",
            mend="`git fetch --tags`, look at what is new, and try again",
        )
    raise push_refusal(
        done.stderr,
        where="git push",
        denied="ask whoever runs the origin who may push such tags; nothing is left here",
        away="check the network and `git remote get-url origin`",
    )


def _table(listing: bytes) -> dict[str, str]:
    """Object ids by the name of the tag."""
    rows = (line.split("\t", 1) for line in listing.decode(errors="replace").splitlines() if "\t" in line)
    return {ref.removeprefix("refs/tags/"): oid for oid, ref in rows}


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + rest
