"""How the verbs find a request's work tree: where it is kept, and which branch it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.request.assemble import assemble, compose
from builder.request.assembled import Assembled, request_folder
from builder.request.built import is_build
from builder.request.retire import retire_trees
from registry.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from registry.history import Repository

__all__ = ["branch_of", "open_built", "open_request"]


def open_request(repository: Repository, request: str, *, main: str = "") -> Assembled:
    """A request's work tree, made where it is not there: what ``plan``, ``build`` and ``gate`` do with ``--request``.

    Trees of requests that are over go, too.

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
    made = assemble(repository, commit, folder, main=main or repository.main_branch())
    retire_trees(repository, keep=commit)
    return made


def open_built(repository: Repository, request: str) -> Assembled:
    """The work tree in which a request was built, as it is: main may have moved since.

    Nothing that lies in the tree is believed. What it says that it was made from is checked against main and against
    what runners pushed, and its commit is made again from that.

    Raises:
        NotFoundError: It was not built here.
        InvalidError: It says that it was made from something else than main.
    """
    commit = repository.resolve(request)
    folder = request_folder(repository.root, commit)
    found = Assembled.read(folder) if folder.is_dir() and not folder.is_symlink() else None
    if found is None:
        raise NotFoundError(
            f"commit {commit} was not built here",
            where=request,
            mend="`varietal build --request` it; where its branch has moved since, publish the commit that was built",
        )
    if not _is_of_main(repository, found.main) or not all(is_build(repository.root, one) for one in found.builds):
        raise InvalidError(
            "the tree says that it was made from commits that are neither main's nor a runner's",
            where=str(folder),
            mend="fetch main and the built branches; if that does not help, `varietal build --request` it again",
        )
    return compose(repository, commit, folder, main=found.main, builds=found.builds)


def _is_of_main(repository: Repository, commit: str) -> bool:
    try:
        known = repository.resolve(commit) == commit  # an id, and no other name of a commit
    except NotFoundError:
        return False
    return known and repository.is_ancestor(commit, repository.main_branch())


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
