"""A request -> a work tree of its own, made from main's commit, with what may be taken from the request in it.

1. The request is resolved once: what is built is one commit, wherever its branch goes.
2. What it changes since it left main is found folder by folder, and sorted: taken, generated, left alone, refused.
3. The commit starts as main's. Manifests and data that the request changes come in, where main has not changed them
   too; a ``.dvc`` file and params.yaml are read and written anew. Code that a stage would run comes in only where main
   approves its digest.
4. Locks and records are main's, or what runners pushed for earlier builds of this request.
5. Pipelines are made from the manifests, which finds every fault in them. The commit's id follows from all this alone.
6. The tree on disk is put back to that commit, before every use: what a stage left in it is not asked.

Nothing of the request is run, and no file of it is checked out by git under the settings of the runner.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from builder.compiled import write_pipelines
from builder.request.approved import unapproved
from builder.request.assembled import Assembled, kept_ref
from builder.request.built import built_changes, find_builds
from builder.request.changes import changed_paths
from builder.request.lay_out import lay_out
from builder.request.machine import give_settings
from builder.request.names import DATA, MODELS, PROJECT, REWARDS, collisions, part_of, shown
from builder.request.plumbing import (
    commit_alike,
    entries_at,
    git,
    keep,
    merge_base,
    patched,
    tree_files,
    tree_of,
)
from builder.request.pointer import read_pointer
from builder.request.project import merge_project
from builder.request.taken import Sorted, looks_into, size_faults, sort_changes
from registry import __version__
from registry.errors import ConflictError, Fault, InvalidError, NotFoundError
from registry.file_lock import locked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.history import Repository

__all__ = ["assemble", "compose"]

_LINK, _SUBMODULE = "120000", "160000"


def assemble(repository: Repository, request: str, folder: Path, *, main: str) -> Assembled:
    """Make a request's work tree, or put the one that is there back to what it was made as.

    What a build has left in the folder stays: locks, records, artifacts, work folders, caches.

    Args:
        repository: The runner's repository.
        request: Branch or commit that asks for a merge.
        folder: Root of the tree; see :func:`builder.request.assembled.request_folder`.
        main: Branch or commit that tool and configuration are from.

    Raises:
        NotFoundError: There is no such commit, or it has nothing in common with main.
        InvalidError: The request breaks a rule, or a manifest is at fault; every fault is told.
        ConflictError: Main has changed since what the request changes too.
    """
    request_commit, main_commit = repository.resolve(request), repository.resolve(main)
    with locked(folder.with_name(f"{folder.name}.lock")):  # two commands do not assemble one request at once
        builds = find_builds(repository.root, request_commit, main_commit)
        made = compose(repository, request_commit, folder, main=main_commit, builds=builds)
        known = Assembled.read(folder) if folder.is_dir() else None
        lay_out(repository, folder, made.commit, main_commit, anew=known is None or known.commit != made.commit)
        give_settings(repository.root, folder)
        made.write()
    return made


def compose(repository: Repository, request: str, folder: Path, *, main: str, builds: Sequence[str]) -> Assembled:
    """Make the commit of a request's tree; the same from the same, and nothing on disk but git's objects.

    Args:
        repository: The runner's repository.
        request: Commit that asks for a merge.
        folder: Root of the tree that it is for.
        main: Commit of main.
        builds: Commits that runners pushed for it, newest first.

    Raises:
        NotFoundError: It has nothing in common with main.
        InvalidError: The request breaks a rule, or a manifest is at fault; every fault is told.
        ConflictError: Main has changed since what the request changes too.
    """
    root = repository.root
    base = _merge_base(root, request, main)
    found = sort_changes(changed_paths(root, base, request, looks_into=looks_into))
    taken, left = _take(root, found, base=base, main=main, request=request)
    message = f"Assemble a request\n\nVarietal-Request: {request}\nVarietal-Tool: {__version__}\n"
    parents = [main, *builds]
    commit = _made_before(root, request, parents, message)
    if not commit:
        changes: dict[str, str | None] = {**taken}
        for build in reversed(builds):
            changes |= built_changes(root, build, main)
        tree = patched(root, tree_of(root, main), changes)
        tree = patched(root, tree, dict.fromkeys(_orphans(root, tree)))
        tree = patched(root, tree, _pipelines(repository, tree))
        commit = commit_alike(root, tree, parents, message)
        git(root, "update-ref", kept_ref(request), commit)
    return Assembled(
        root=folder,
        home=root,
        request=request,
        main=main,
        base=base,
        builds=tuple(builds),
        commit=commit,
        taken=tuple(sorted(taken)),
        left=tuple(sorted([*map(shown, found.left), *left])),
        generated=found.generated,
    )


def _made_before(root: Path, request: str, parents: Sequence[str], message: str) -> str:
    """The commit that this runner has made of the very same, with the same tool; empty where there is none."""
    out = git(root, "for-each-ref", "--format=%(objectname)%00%(parent)%00%(contents)", "--", kept_ref(request))
    commit, _, rest = out.decode(errors="replace").partition("\0")
    before, _, said = rest.partition("\0")
    return commit if before.split() == [*parents] and said.strip() == message.strip() else ""


def _merge_base(root: Path, request: str, main: str) -> str:
    found = merge_base(root, request, main)
    if not found:
        raise NotFoundError(
            "the request has no commit in common with main",
            where=f"commit {request}",
            mend="fetch all of its history (`git fetch --unshallow`); a request starts from main",
        )
    return found


def _take(
    root: Path, found: Sorted, *, base: str, main: str, request: str
) -> tuple[Mapping[str, str | None], tuple[str, ...]]:
    """What is taken, as blobs by path, and the keys of params.yaml that are not."""
    kept = tuple(tree_files(root, main, DATA, MODELS, REWARDS))
    _refuse([*found.faults, *size_faults(_sizes(root, found.taken)), *_meetings(kept, found.taken)])
    _refuse([*unapproved(root, main, found.taken)])
    ours = {path: entry.oid for path, entry in entries_at(root, main, list(found.taken)).items()}
    theirs = {path: entry.oid for path, entry in entries_at(root, base, list(found.taken)).items()}
    changes: dict[str, str | None] = {}
    left: tuple[str, ...] = ()
    faults: list[Fault] = []
    for path, oid in found.taken.items():
        part = part_of(path)
        if part == "project" and oid is not None:
            text, keys = merge_project(*(_blob(root, one, path) for one in (base, main, request)), where=PROJECT)
            changes[path], left = keep(root, text), tuple(f"{PROJECT}: {key}" for key in keys)
            continue
        if ours.get(path) not in {theirs.get(path), oid}:
            raise ConflictError(
                f"main has changed {shown(path)} since, too",
                where=f"commit {request}",
                mend="merge main into the request, and settle it there",
            )
        try:
            pointer = read_pointer(git(root, "cat-file", "blob", oid), path) if part == "pointer" and oid else None
        except InvalidError as error:
            faults += error.faults
            continue
        changes[path] = oid if pointer is None else keep(root, pointer.text().encode())
    _refuse(faults)
    return changes, left


def _refuse(faults: list[Fault]) -> None:
    if faults:
        raise InvalidError.from_faults(faults)


def _sizes(root: Path, taken: Mapping[str, str | None]) -> dict[str, int]:
    """Bytes of what is taken, by path."""
    wanted = {path: oid for path, oid in taken.items() if oid is not None}
    questions = "".join(f"{oid}\n" for oid in wanted.values()).encode()
    out = git(root, "cat-file", "--batch-check=%(objectsize)", data=questions).split() if wanted else []
    return {path: int(size) for path, size in zip(wanted, out, strict=True)}


def _meetings(kept: tuple[str, ...], taken: Mapping[str, str | None]) -> Iterator[Fault]:
    """What cannot stand beside the rest on every system; a ``.dvc`` file stands for its data file too."""
    stays = {path for path in kept if path not in taken}
    comes = {path for path, oid in taken.items() if oid is not None and path != PROJECT}
    before, after = ({*paths, *(path.removesuffix(".dvc") for path in paths)} for paths in (stays, comes))
    for path in sorted(one for one in {*comes, *stays} if f"{one}.dvc" in {*comes, *stays}):
        if {path, f"{path}.dvc"} & comes:
            yield _meeting(f"{path}.dvc", path)
    for path, other in collisions(before, after).items():
        yield _meeting(path, other)


def _meeting(path: str, other: str) -> Fault:
    problem = f"cannot stand beside {shown(other)}"
    return Fault(file=shown(path), line=0, key="", problem=problem, mend="remove or rename one of them")


def _blob(root: Path, commit: str, path: str) -> bytes:
    entry = entries_at(root, commit, [path]).get(path)
    return git(root, "cat-file", "blob", entry.oid) if entry is not None else b""


def _orphans(root: Path, tree: str) -> list[str]:
    """What was generated for variants that no manifest declares any more."""
    paths = tree_files(root, tree, MODELS)
    declared = {path.rsplit("/", 1)[0] for path in paths if part_of(path) == "manifest"}
    return [path for path in paths if part_of(path) == "generated" and "/".join(path.split("/")[:2]) not in declared]


def _pipelines(repository: Repository, tree: str) -> dict[str, str | None]:
    """The pipelines that differ from what a tree has; ``None`` where one goes.

    They are made in a folder of their own, in which data files are empty: they are looked for, and not read.
    """
    files = {path: one for path, one in tree_files(repository.root, tree).items() if one.mode != _SUBMODULE}
    read = [path for path in files if part_of(path) in {"manifest", "project", "code", "generated"}]
    texts = dict(zip(read, repository.read_blobs(files[path].oid for path in read), strict=True))
    with tempfile.TemporaryDirectory(prefix="varietal-request-") as name:
        place = Path(name)
        for path, entry in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            if path in texts and entry.mode == _LINK:
                (place / path).symlink_to("nowhere")  # is told as a link, whatever it leads to
            else:
                (place / path).write_bytes(texts.get(path) or b"")
        changes = write_pipelines(place)
        made = {path: keep(repository.root, (place / path).read_bytes()) for path in changes.written}
    return {**made, **dict.fromkeys(changes.removed)}
