"""How the verbs find a request's work tree: where it is kept, and which branch it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.request.assemble import assemble
from builder.request.assembled import Assembled, request_folder
from registry.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from registry.history import Repository

__all__ = ["branch_of", "open_built", "open_request"]


def open_request(repository: Repository, request: str, *, main: str = "") -> Assembled:
    """A request's work tree, made where it is not there: what ``plan``, ``build`` and ``gate`` do with ``--request``.

    Args:
        repository: The runner's repository.
        request: Branch or commit that asks for a merge; it is resolved once.
        main: Branch or commit of main; empty for what the origin calls so.

    Raises:
        NotFoundError: There is no such commit, or no main branch.
        InvalidError: The request breaks a rule.
        ConflictError: Main has changed since what the request changes too.
    """
    commit = repository.resolve(request)
    folder = request_folder(repository.root, commit)
    return assemble(repository, commit, folder, main=main or repository.main_branch())


def open_built(repository: Repository, request: str) -> Assembled:
    """The work tree in which a request was built, as it is: main may have moved since.

    Raises:
        NotFoundError: It was not built here.
    """
    commit = repository.resolve(request)
    found = Assembled.read(request_folder(repository.root, commit))
    if found is None:
        raise NotFoundError(
            f"commit {commit} was not built here",
            where=request,
            mend="`varietal build --request` it; where its branch has moved since, publish the commit that was built",
        )
    return found


def branch_of(repository: Repository, request: str) -> str:
    """Branch of the origin that a request's name stands for.

    Raises:
        InvalidError: It is a commit, or something else that is no branch of the origin.
    """
    done = repository.ask("rev-parse", "--symbolic-full-name", "--verify", "--quiet", "--end-of-options", request)
    name = done.stdout.decode(errors="replace").strip().splitlines()[-1:] if done.returncode == 0 else []
    for prefix in ("refs/heads/", "refs/remotes/origin/"):
        if name and name[0].startswith(prefix):
            return name[0].removeprefix(prefix)
    raise InvalidError(
        f"{request} does not say which branch it is of", where="varietal publish", mend="name it: --branch NAME"
    )
