"""A request -> a work tree of its own, made from main's commit, with what may be taken from the request in it.

1. The request is resolved once: what is built is one commit, wherever its branch goes.
2. What it changes since it left main is found folder by folder, and sorted: taken, generated, left alone, refused.
3. The tree starts as main's. Manifests and data that the request changes come in, where main has not changed them too;
   a ``.dvc`` file and params.yaml are read and written anew.
4. Locks and records are main's, or what a runner pushed for an earlier build of this request.
5. Pipelines are made from the manifests, which finds every fault in them. Then the tree is a commit, and whole.

Nothing of the request is run, and no file of it is checked out by git under the settings of the runner.
"""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.compiled import write_pipelines
from builder.request.assembled import Assembled
from builder.request.built import built_changes, find_built
from builder.request.changes import changed_paths
from builder.request.machine import give_settings
from builder.request.names import DATA, MODELS, PROJECT, collisions, part_of, shown
from builder.request.plumbing import Scratch, entries_at, git, git_or_none
from builder.request.pointer import read_pointer
from builder.request.project import merge_project
from builder.request.taken import Sorted, looks_into, size_faults, sort_changes
from builder.work import write_file
from registry.errors import ConflictError, Fault, InvalidError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from registry.history import Repository

__all__ = ["assemble"]


def assemble(repository: Repository, request: str, folder: Path, *, main: str) -> Assembled:
    """Make a request's work tree, or find that it is there.

    What a build has left in the folder stays: artifacts, work folders, caches.

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
    root = repository.root
    with _locked(folder):
        built = find_built(root, request_commit, main_commit)
        known = Assembled.read(folder)
        if known is not None and (known.request, known.main, known.built) == (request_commit, main_commit, built):
            give_settings(root, folder)
            _write_refs(root, folder, main_commit)
            return known
        base = _merge_base(root, request_commit, main_commit)
        found = sort_changes(changed_paths(root, base, request_commit, looks_into=looks_into))
        scratch = Scratch.make(folder, repository)
        scratch.read(main_commit)
        taken, left = _take(scratch, found, base=base, main=main_commit, request=request_commit)
        scratch.change(built_changes(root, built, main_commit) if built else {})
        scratch.change(dict.fromkeys(_orphans(scratch)))
        _write_refs(root, folder, main_commit)
        commit = _finish(scratch, root, [main_commit, *([built] if built else [])], request_commit)
        assembled = Assembled(
            root=folder,
            request=request_commit,
            main=main_commit,
            base=base,
            built=built,
            commit=commit,
            taken=tuple(sorted(taken)),
            left=tuple(sorted([*map(shown, found.left), *left])),
            generated=found.generated,
        )
        assembled.write()
    return assembled


def _merge_base(root: Path, request: str, main: str) -> str:
    found = (git_or_none(root, "merge-base", request, main) or b"").decode().strip()
    if not found:
        raise NotFoundError(
            "the request has no commit in common with main",
            where=f"commit {request}",
            mend="fetch all of its history (`git fetch --unshallow`); a request starts from main",
        )
    return found


def _take(
    scratch: Scratch, found: Sorted, *, base: str, main: str, request: str
) -> tuple[Mapping[str, str | None], tuple[str, ...]]:
    """Put what is taken into the index; what was taken, and the keys of params.yaml that were not."""
    root = scratch.folder
    kept = scratch.paths(DATA, MODELS)
    _refuse([*found.faults, *size_faults(_sizes(root, found.taken)), *_meetings(kept, found.taken)])
    ours = {path: entry.oid for path, entry in entries_at(root, main, list(found.taken)).items()}
    theirs = {path: entry.oid for path, entry in entries_at(root, base, list(found.taken)).items()}
    changes: dict[str, str | None] = {}
    left: tuple[str, ...] = ()
    faults: list[Fault] = []
    for path, oid in found.taken.items():
        part = part_of(path)
        if part == "project" and oid is not None:
            text, keys = merge_project(*(_blob(root, one, path) for one in (base, main, request)), where=PROJECT)
            changes[path], left = scratch.keep(text), tuple(f"{PROJECT}: {key}" for key in keys)
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
        changes[path] = oid if pointer is None else scratch.keep(pointer.text().encode())
    _refuse(faults)
    scratch.change(changes)
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


def _orphans(scratch: Scratch) -> list[str]:
    """What was generated for variants that no manifest declares any more."""
    paths = scratch.paths(MODELS)
    declared = {path.rsplit("/", 1)[0] for path in paths if part_of(path) == "manifest"}
    return [path for path in paths if part_of(path) == "generated" and "/".join(path.split("/")[:2]) not in declared]


def _finish(scratch: Scratch, runner: Path, parents: list[str], request: str) -> str:
    """Check the tree out, make its pipelines, and commit it; the id of the commit."""
    folder = scratch.folder
    tree = scratch.tree()
    scratch.read(tree, check_out=True)
    give_settings(runner, folder)
    changes = write_pipelines(folder)
    made = {path: scratch.keep((folder / path).read_bytes()) for path in changes.written}
    scratch.change({**made, **dict.fromkeys(changes.removed)})
    message = f"Assemble a request\n\nVarietal-Request: {request}\n"
    commit = scratch.commit(scratch.tree(), parents, message)
    scratch.check_out(commit)
    return commit


def _write_refs(root: Path, folder: Path, main: str) -> None:
    """Give the tree main, whose rules say which channels count, and main's tags; nothing else that lies about here."""
    out = git(root, "for-each-ref", f"--merged={main}", "--format=%(objectname) %(refname)", "--", "refs/tags/")
    write_file(folder / ".git" / "packed-refs", f"{main} refs/remotes/origin/main\n".encode() + out)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two commands do not assemble one request at once; the kernel gives the lock back when this process ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
