"""What was built goes out: bytes to a remote, then locks and records to a branch, by compare-and-swap.

1. Locks and records are read from the work tree, and must agree with each other. In a request's tree, which stages
   could write to, no git runs and nothing else is asked: its commit is made again from main and the request.
2. Every artifact that they name, and that the remote lacks, is proven by sha256 and sent. Only then is it spoken of.
   For a request, what the remote has is read back and proven, too, where this runner has not written it.
3. A commit is made by plumbing, of the request's own tree with these files in it; no hook runs, and no file of the
   request is checked out. Of a request a second commit is made, of the assembled tree, which comes from main alone.
4. Both are pushed at once, each only from where it must be. A runner that was not the first changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.compiled import stale_files
from builder.request.built import GENERATED, built_branch, built_message, published_of, tracked_ref
from builder.request.carry import Carrier
from builder.request.changes import changed_in_main
from builder.request.forget import forget_notes
from builder.request.goods import goods_of
from builder.request.harvest import altered, harvest
from builder.request.names import DATA, home_of, part_of, shown
from builder.request.places import Cache, Remote
from builder.request.plumbing import commit_tree, entries_at, git, git_or_none, identity_of, keep, patched, tree_of
from builder.request.push import Move, check_branch, lost, push, tips_at
from builder.request.sent import Sent
from registry.conflict_markers import left_markers
from registry.errors import InvalidError, NotFoundError, RefusedError
from registry.history import Repository
from registry.plain_file import read_plain
from registry.progress_note import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.request.assembled import Assembled
    from registry.canonical import JSON
    from registry.store import Store

__all__ = ["Published", "publish_branch", "publish_request"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What was published.

    Attributes:
        branch: Branch of the origin.
        commit: Commit that the branch is at now.
        request: Commit that was built.
        built: What the runner keeps for the next build; empty where no request was published.
        homes: Folders of the variants whose locks and records differ from main's.
        remote: DVC remote that has the bytes; empty for the default one.
        moved_bytes: Bytes that were sent there.
        moved: Whether the branch was moved: not where it had all of it.
    """

    branch: str
    commit: str
    request: str
    built: str
    homes: tuple[str, ...]
    remote: str
    moved_bytes: int
    moved: bool

    def to_json(self) -> dict[str, JSON]:
        """The shape of ``varietal publish --json``."""
        return {
            "branch": self.branch,
            "commit": self.commit,
            "request": self.request,
            "built": self.built or None,
            "homes": [*self.homes],
            "remote": self.remote or None,
            "moved_bytes": self.moved_bytes,
            "moved": self.moved,
        }


def publish_request(
    repository: Repository,
    assembled: Assembled,
    branch: str,
    remote: str,
    *,
    may_create: bool,
    prove: bool = False,
    store: Store,
    say: Callable[[str], None],
) -> Published:
    """Publish what was built in a request's work tree.

    Args:
        repository: The runner's repository, whose origin is pushed to.
        assembled: The request's work tree.
        branch: Branch that gets locks and records.
        remote: DVC remote that gets the bytes.
        may_create: Whether the branch is made where the origin has none of this name.
        prove: Whether to read back what this runner has sent before, too.
        store: Local content store.
        say: Tells the person at the terminal.

    Raises:
        RefusedError: The build is not finished, or the tree was changed by hand.
        InvalidError: The branch is the main one, or what lies in the tree is not what a build leaves.
        ConflictError: The branch is no longer where the request was.
        DigestMismatchError: An artifact is not what its record says.
        NotFoundError: An artifact is not on this machine, or there is no such remote.
        DeniedError: The remote or the origin takes nothing from us.
        TransportError: One of them does not answer.
    """
    root, ref = repository.root, check_branch(repository, branch)
    _refuse_main(repository, branch)
    built_ref = f"refs/heads/{built_branch(branch)}"
    _refuse_strange(altered(assembled), assembled.root)
    changes = harvest(assembled)
    tree = patched(root, tree_of(root, assembled.commit), _kept(root, changes))
    generated = changed_in_main(root, assembled.main, tree, GENERATED)
    homes = sorted({home_of(path) for path in generated} - {""})
    carrier = Carrier(Cache(root), Remote(root, remote), store, say, sent=Sent(root, remote, forgotten=prove))
    released = Carrier(Cache(root), Remote(root), store, say)
    moved_bytes = _send(carrier, homes, _reader(repository, tree), released=released)
    place = {path: entry.oid for path, entry in entries_at(root, tree, list(assembled.generated)).items()}
    wanted = {**{path: place.get(path) for path in assembled.generated}, **generated}
    published = _commit(root, assembled.request, wanted, f"Build {_names(homes)}\n\n{_trailers(assembled)}")
    tips = tips_at(repository, ref, built_ref)
    tip, before = tips.get(ref, ""), tips.get(built_ref, "")
    published = tip if _is_result(root, tip, published) else published
    move = _branch_move(root, ref, tip, assembled, published, may_create=may_create)
    kept = _is_build(root, before, tree, published)
    built = before if kept else _built(root, assembled, tree, published)
    moves = [] if move is None else [move]
    moves += [Move(ref=built_ref, old=before, new=built)] if built and not kept else []
    if moves:
        push(repository, moves)
    if built:
        git(root, "update-ref", tracked_ref(built_branch(branch)), built)
    forget_notes(repository, remote, Scope(kind="requests", commit=assembled.request), say)
    return Published(
        branch=branch,
        commit=published if move is not None else tip,
        request=assembled.request,
        built=built or assembled.built,
        homes=tuple(homes),
        remote=remote,
        moved_bytes=moved_bytes,
        moved=move is not None,
    )


def publish_branch(
    repository: Repository, branch: str, remote: str, *, store: Store, say: Callable[[str], None]
) -> Published:
    """Publish what was built in the work tree of a trusted branch.

    Args:
        repository: The repository; what is checked out is what was built.
        branch: Branch of the origin; empty for the one that is checked out.
        remote: DVC remote that gets the bytes; empty for the default one.
        store: Local content store.
        say: Tells the person at the terminal.

    Raises:
        RefusedError: The build is not finished, something else is not committed, or a pipeline is not the manifest's.
        InvalidError: No branch is checked out, and none was named; a manifest is at fault.
        ConflictError: The origin's branch has commits that are not here.
        DigestMismatchError: An artifact is not what its record says.
        NotFoundError: An artifact is not on this machine, or there is no such remote.
        DeniedError: The remote or the origin takes nothing from us.
        TransportError: One of them does not answer.
    """
    root, own, head = repository.root, repository.branch(), repository.head()
    if not branch and not own:
        raise InvalidError("no branch is checked out", where="varietal publish", mend="name one: --branch NAME")
    ref = check_branch(repository, branch or own)
    entries = _kept(root, _changes(root))
    _check_pipelines(root)
    tree = patched(root, tree_of(root, head), entries)
    base = _published_before(repository, head)
    homes = sorted({home_of(path) for path in changed_in_main(root, base, tree, GENERATED)} - {""})
    moved_bytes = _send(Carrier(Cache(root), Remote(root, remote), store, say), homes, _reader(repository, tree))
    published = _commit(root, head, entries, f"Build {_names(homes)}\n")
    tip = tips_at(repository, ref).get(ref, "")
    moved = tip != published
    if moved:
        if tip and not _comes_from(root, head, tip):
            raise lost(ref, head)
        push(repository, [Move(ref=ref, old=tip, new=published)])
    if own and ref == f"refs/heads/{own}" and published != head:
        _take_up(root, ref, head, published, entries)
    forget_notes(repository, remote, Scope(kind="branches", commit=head), say)
    return Published(
        branch=branch or own,
        commit=published,
        request=head,
        built="",
        homes=tuple(homes),
        remote=remote,
        moved_bytes=moved_bytes,
        moved=moved,
    )


def _check_pipelines(root: Path) -> None:
    """Whoever builds the branch next runs what they say.

    Raises:
        RefusedError: One is not what its manifest says: stale, edited by hand, or with conflict markers in it.
        InvalidError: A manifest is at fault.
    """
    if stale := stale_files(root):
        raise RefusedError(
            f"not what the manifests say: {', '.join(stale[:5])}{left_markers(root, stale[:5])}",
            where=str(root),
            mend="run `varietal compile`, look at what it changed, build, and publish again",
        )


def _changes(root: Path) -> dict[str, bytes | None]:
    """Pipelines, locks and records that differ from the commit; ``None`` where one is gone.

    Raises:
        RefusedError: Something that decides a build differs too.
    """
    found: dict[str, bytes | None] = {}
    strange = []
    for path in Repository(root).changes():
        part = part_of(path)
        if part == "generated":
            found[path] = read_plain(root / path) if (root / path).exists() else None
        elif part == "data" and (root / f"{path}.dvc").is_file():
            continue  # fetched for the build
        elif part in {"manifest", "project", "pointer", "code"} or path.startswith(f"{DATA}/"):
            strange.append(path)
    _refuse_strange(strange, root)
    return found


def _refuse_strange(paths: Sequence[str], root: Path) -> None:
    if paths:
        raise RefusedError(
            f"not committed: {', '.join(map(shown, paths[:5]))}",
            where=str(root),
            mend="what is published must be built from a commit: commit, build, and publish again",
        )


def _refuse_main(repository: Repository, branch: str) -> None:
    """A request's result is merged by people, or by rules that they made."""
    name = repository.main_branch().removeprefix("refs/heads/").removeprefix("refs/remotes/origin/")
    if branch == name:
        raise InvalidError(
            f"{branch} is the main branch, which a request only asks to be merged into",
            where="varietal publish --request",
            mend="name the branch of the request: --branch NAME",
        )


def _kept(root: Path, changes: Mapping[str, bytes | None]) -> dict[str, str | None]:
    return {path: None if data is None else keep(root, data) for path, data in changes.items()}


def _reader(repository: Repository, tree: str) -> Callable[[str], bytes | None]:
    """Reads files of a tree by their paths."""

    def read(path: str) -> bytes | None:
        return next(repository.read_blobs([f"{tree}:{path}"]))

    return read


def _send(
    carrier: Carrier, homes: list[str], read: Callable[[str], bytes | None], *, released: Carrier | None = None
) -> int:
    """Send what the locks of these variants name, but for what was released and stayed; the bytes that went."""
    goods = tuple(one for home in homes for one in goods_of(home, read))
    wanted = carrier.lacking(goods) if goods else ()
    for one in wanted if released is None or not wanted else released.lacking(wanted):
        carrier.carry(one)
    return carrier.moved_bytes


def _commit(root: Path, parent: str, changes: Mapping[str, str | None], message: str) -> str:
    """A commit with these files in the tree of its parent; the parent where that makes no difference."""
    before = tree_of(root, parent)
    tree = patched(root, before, changes)
    return parent if tree == before else commit_tree(root, tree, [parent], message, identity_of(root))


def _built(root: Path, assembled: Assembled, tree: str, published: str) -> str:
    """The runner's own commit; empty where it would say no more than main does, or than the one before."""
    generated = changed_in_main(root, assembled.commit if assembled.builds else assembled.main, tree, GENERATED)
    if not any(map(home_of, generated)):
        return ""
    message = built_message(assembled.request, published)
    return commit_tree(root, tree, [assembled.commit], message, identity_of(root))


def _branch_move(
    root: Path, ref: str, tip: str, assembled: Assembled, published: str, *, may_create: bool
) -> Move | None:
    """How the branch has to move; ``None`` where it is there.

    Raises:
        ConflictError: It is where nobody expects it.
    """
    if tip == published:
        return None
    results = {published_of(root, build) for build in assembled.builds} - {""}
    known = {assembled.request, *results} | ({""} if may_create else set())
    if tip not in known:
        raise lost(ref, assembled.request)
    return Move(ref=ref, old=tip, new=published)


def _is_result(root: Path, tip: str, published: str) -> bool:
    """Whether a commit is this very result, by an earlier attempt: same parents, same tree."""
    return bool(tip) and _facts(root, tip) == _facts(root, published)


def _is_build(root: Path, before: str, tree: str, published: str) -> bool:
    """Whether the runner's commit says this already."""
    return bool(before) and _facts(root, before)[:1] == (tree,) and published_of(root, before) == published


def _facts(root: Path, commit: str) -> tuple[str, ...]:
    """Tree and parents of a commit; nothing of one that is not here."""
    out = git_or_none(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    if out is None:
        return ()
    return tuple(git(root, "rev-parse", f"{commit}^{{tree}}", f"{commit}^@").decode().split())


def _published_before(repository: Repository, head: str) -> str:
    """Where this branch left main; the empty tree where no main is known."""
    try:
        main = repository.resolve(repository.main_branch())
    except NotFoundError:
        return git(repository.root, "hash-object", "-t", "tree", "--stdin").decode().strip()
    return (git_or_none(repository.root, "merge-base", head, main) or main.encode()).decode().strip()


def _comes_from(root: Path, head: str, tip: str) -> bool:
    """Whether a commit of the origin is known here, and this one came after it."""
    known = git_or_none(root, "rev-parse", "--verify", "--quiet", f"{tip}^{{commit}}")
    return known is not None and git_or_none(root, "merge-base", "--is-ancestor", tip, head) is not None


def _take_up(root: Path, ref: str, head: str, published: str, entries: Mapping[str, str | None]) -> None:
    """Let the local branch follow: the work tree has these very files already."""
    git(root, "update-ref", "-m", "varietal publish", ref, published, head)
    none = "0" * len(head)
    rows = "".join(f"{'0' if oid is None else '100644'} {oid or none}\t{path}\0" for path, oid in entries.items())
    git(root, "update-index", "-z", "--index-info", data=rows.encode())


def _names(homes: list[str]) -> str:
    names = [home.rsplit("/", 1)[-1] for home in homes]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "nothing anew"  # noqa: PLR2004 - named


def _trailers(assembled: Assembled) -> str:
    return f"Varietal-Request: {assembled.request}\nVarietal-Main: {assembled.main}\n"
