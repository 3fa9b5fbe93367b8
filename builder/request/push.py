"""What is sent to the origin: a branch and what a runner keeps for itself, both or none, by compare-and-swap."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.request.built import BUILT_BRANCHES
from registry.errors import ConflictError, Error, InvalidError
from registry.push_refusal import push_refusal, was_lost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.history import Repository

__all__ = ["ORIGIN", "Move", "check_branch", "lost", "push", "tips_at"]

ORIGIN = "origin"
_TIMEOUT_S = 600.0
_IN_THE_WAY = re.compile(r"'refs/heads/([^']+)' exists; cannot create 'refs/heads/([^']+)'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A ref that is to move.

    Attributes:
        ref: Its full name.
        old: Where it must be; empty where it must not exist.
        new: Where it shall be; empty where it shall go.
    """

    ref: str
    old: str
    new: str


def check_branch(repository: Repository, branch: str) -> str:
    """Full ref of a branch.

    Raises:
        InvalidError: It is no name of a branch, or of one that only keeps what was built.
    """
    ref = f"refs/heads/{branch}"
    if branch.startswith(BUILT_BRANCHES):
        raise InvalidError(
            f"{branch} is where runners keep what they built", where="--branch", mend="name the branch of the request"
        )
    if branch.startswith("-") or repository.ask("check-ref-format", ref).returncode:
        raise InvalidError(f"{branch!r} is no name of a branch", where="--branch", mend="write it as `git branch` does")
    return ref


def tips_at(repository: Repository, *refs: str) -> Mapping[str, str]:
    """Where refs of the origin stand; those left out that do not exist.

    Raises:
        TransportError: The origin does not answer.
        DeniedError: It refuses the credentials.
    """
    done = repository.ask("ls-remote", "--quiet", "--", ORIGIN, *refs, timeout_s=_TIMEOUT_S)
    if done.returncode:
        raise _refused(done.stderr)
    rows = (line.split("\t", 1) for line in done.stdout.decode(errors="replace").splitlines())
    return {ref: oid for oid, ref in rows if ref in refs}


def push(repository: Repository, moves: Sequence[Move]) -> None:
    """Move refs of the origin, all or none; each only from where it must be.

    No hook of the repository runs, and submodules are not looked into.

    Raises:
        ConflictError: A ref is elsewhere by now: someone was faster; or another branch is in the way of its name.
        DeniedError: The origin takes no such push from us.
        TransportError: It does not answer.
    """
    leases = [f"--force-with-lease={one.ref}:{one.old}" for one in moves]
    specs = [f"{one.new}:{one.ref}" for one in moves]
    done = repository.ask(
        *("-c", "core.hooksPath=/dev/null", "push", "--quiet", "--porcelain", "--atomic", "--no-verify"),
        *("--recurse-submodules=no", *leases, "--", ORIGIN, *specs),
        timeout_s=_TIMEOUT_S,
    )
    if done.returncode == 0:
        return
    rejected = [line for line in done.stdout.splitlines() if line.startswith(b"!")]
    said = b"\n".join([done.stderr, *rejected])
    if found := _IN_THE_WAY.search(said.decode(errors="replace")):
        raise ConflictError(
            f"the branch {found[1]} stands in the way of {found[2]}: git keeps no branch below another one's name",
            where=ORIGIN,
            mend=f"remove or rename {found[1]} at the origin, or publish to another branch: --branch NAME",
        )
    if was_lost(said):
        raise lost(moves[0].ref, moves[0].old)
    raise _refused(said)


def lost(ref: str, old: str) -> ConflictError:
    """The error of a runner that was not the first."""
    return ConflictError(
        f"{ref.removeprefix('refs/heads/')} has moved at the origin since {old[:12] or 'it was looked at'}",
        where=f"{ORIGIN}: {ref}",
        mend="another runner or a new commit was first, and nothing was pushed: fetch, then plan again",
    )


def _refused(said: bytes) -> Error:
    return push_refusal(
        said,
        where=ORIGIN,
        denied="give the publishing process the right to push, and no other",
        away="check the network and `git remote get-url origin`",
    )
