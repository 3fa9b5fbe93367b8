"""What of a request counts: each changed path is taken, left alone, or refused. Rules only, nothing is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.request.names import DATA, MODELS, PROJECT, REWARDS, part_of, problem_of, shown
from builder.request.plumbing import FILE
from builder.request.pointer import MAX_POINTER_BYTES
from builder.reward_code import MAX_CODE_BYTES
from registry.errors import Fault
from registry.record import BASES
from registry.yaml12 import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.request.changes import Changed
    from builder.request.plumbing import Entry

__all__ = ["MAX_DATA_BYTES", "MAX_TAKEN_BYTES", "Sorted", "looks_into", "size_faults", "sort_changes"]

MAX_DATA_BYTES = 100 << 20
"""Largest data file that is taken from git itself; what is larger is DVC's to keep."""

MAX_TAKEN_BYTES = 1 << 30
"""All that is taken from one request."""

_FOLDER, _LINK, _SUBMODULE = "040000", "120000", "160000"
_FILES = frozenset({FILE, "100755"})
_OURS = frozenset({DATA, MODELS, REWARDS, BASES, PROJECT})
_DEEP = frozenset({MODELS, BASES, ".dvc", ".github"})
_SMALL = {"manifest": MAX_BYTES, "project": MAX_BYTES, "pointer": MAX_POINTER_BYTES, "code": MAX_CODE_BYTES}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sorted:
    """The changes of a request, by what becomes of them.

    Attributes:
        taken: Content by path; ``None`` where the request removes the file.
        generated: Pipelines, locks and records that it changes, which a runner writes.
        left: Paths that a build takes no notice of.
        faults: Why the request is refused.
    """

    taken: Mapping[str, str | None]
    generated: tuple[str, ...]
    left: tuple[str, ...]
    faults: tuple[Fault, ...]


def looks_into(path: str) -> bool:
    """Whether a folder that differs is walked: where something may be taken, or a reviewer wants the file's name."""
    top, _, rest = path.partition("/")
    return top in {DATA, REWARDS} or (top in _DEEP and rest.count("/") < 2)  # noqa: PLR2004 - models/<variant>/records


def sort_changes(changes: Iterable[Changed]) -> Sorted:
    """Sort what a request changes."""
    taken: dict[str, str | None] = {}
    generated: list[str] = []
    left: list[str] = []
    faults: list[Fault] = []
    for change in changes:
        part = part_of(change.path)
        if problem := _kind_problem(change) or ("" if part in {"left", "generated"} else problem_of(change.path)):
            faults.append(_fault(change.path, problem, "leave it out of the request"))
        elif part == "generated":
            generated.append(change.path)
        elif part == "left":
            left.append(change.path)
        elif part == "project" and change.new is None:
            faults.append(_fault(change.path, "removed", "keep it"))
        elif _content(change.old) != _content(change.new):  # else only its permissions differ
            taken[change.path] = _content(change.new)
    return Sorted(taken=taken, generated=tuple(generated), left=tuple(left), faults=tuple(faults))


def size_faults(sizes: Mapping[str, int]) -> Iterator[Fault]:
    """What is too large to be taken.

    Args:
        sizes: Bytes by path of what is taken.
    """
    for path, size_bytes in sizes.items():
        limit = _SMALL.get(part_of(path), MAX_DATA_BYTES)
        if size_bytes > limit:
            yield _fault(path, f"{size_bytes} bytes, at most {limit} are taken", "shorten it, or `dvc add` it")
    total = sum(sizes.values())
    if total > MAX_TAKEN_BYTES:
        yield _fault(DATA, f"{total} bytes in all, at most {MAX_TAKEN_BYTES} are taken", "keep large data with DVC")


def _content(entry: Entry | None) -> str | None:
    return None if entry is None else entry.oid


def _kind_problem(change: Changed) -> str:
    """What a path below the folders that are ours may not become: a link, a submodule, a file where a folder was."""
    top = change.path.split("/")[0]
    if top not in _OURS or change.new is None:
        return ""
    mode = change.new.mode
    if mode == _LINK:
        return "a symbolic link, which could lead out of the repository"
    if mode == _SUBMODULE:
        return "a submodule"
    if mode == _FOLDER:
        return "a folder where a file was" if change.old is not None and change.old.mode != _FOLDER else ""
    if mode not in _FILES:
        return f"neither a file nor a folder, by mode {mode}"
    was_folder = change.old is not None and change.old.mode == _FOLDER
    return "a file where a folder was" if was_folder or change.path in _OURS - {PROJECT} else ""


def _fault(path: str, problem: str, mend: str) -> Fault:
    return Fault(file=shown(path), line=0, key="", problem=problem, mend=mend)
