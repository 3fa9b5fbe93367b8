"""The gate over a request: judged in its assembled tree, and what would be merged held against what a runner wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.graph import build_graph
from builder.load import load
from builder.release import judge_variant
from builder.request.built import GENERATED
from builder.request.changes import changed_in_main
from builder.request.gated import Gated
from builder.request.names import PROJECT, part_of
from builder.request.plumbing import entries_at, git
from builder.request.project import TAKEN_KEYS
from builder.request.touched import touched_variants
from registry import yaml12
from registry.history import Repository
from registry.plain_file import read_plain
from registry.record import manifest_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.request.assembled import Assembled
    from registry.canonical import JSON

__all__ = ["judge_request", "judge_tree"]


def judge_tree(root: Path, variants: Sequence[str]) -> Gated:
    """Judge variants of a work tree; all of them where none is named.

    Raises:
        NotFoundError: There is no such variant.
        InvalidError: A manifest, a lock or a record breaks its rules.
    """
    names = variants or sorted(load(root).manifests)
    return Gated(verdicts=tuple(judge_variant(root, name) for name in names))


def judge_request(assembled: Assembled, variants: Sequence[str]) -> Gated:
    """Judge a request: the variants that are named, else all that it touches.

    Raises:
        NotFoundError: There is no such variant.
        InvalidError: A lock or a record breaks its rules.
    """
    root = assembled.root
    names = variants or _touched(assembled)
    return Gated(
        verdicts=tuple(judge_variant(root, name) for name in names),
        assembled=assembled,
        unwritten=_unwritten(assembled),
        bounds=tuple(name for name in names if _changes_bounds(assembled, name)),
    )


def _touched(assembled: Assembled) -> tuple[str, ...]:
    root = assembled.root
    differing = changed_in_main(root, assembled.main, assembled.commit, ["models/**", "data/**", "bases/**"])
    keys = _changed_keys(root, assembled.main)
    return touched_variants(build_graph(load(root)), [*differing, *Repository(root).changes()], keys)


def _changed_keys(root: Path, main: str) -> list[str]:
    """Keys of params.yaml, two deep, whose value differs from main's."""
    before, after = _document(root, main, PROJECT), _document(root, "HEAD", PROJECT)
    keys = []
    for table in TAKEN_KEYS:
        old, new = (value if isinstance(value, dict) else {} for value in (before.get(table), after.get(table)))
        keys += [f"{table}.{key}" for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return keys


def _changes_bounds(assembled: Assembled, variant: str) -> bool:
    """Whether a variant that main has is judged by other checks than there."""
    path = str(manifest_file(variant))
    before = _document(assembled.root, assembled.main, path)
    return before != {} and before.get("checks") != _document(assembled.root, assembled.commit, path).get("checks")


def _document(root: Path, commit: str, path: str) -> dict[str, JSON]:
    entry = entries_at(root, commit, [path]).get(path)
    value = yaml12.load(git(root, "cat-file", "blob", entry.oid), path).value if entry is not None else {}
    return value if isinstance(value, dict) else {}


def _unwritten(assembled: Assembled) -> tuple[str, ...]:
    """What a merge would bring that is not what stands in the assembled tree; the request may lack what it needs."""
    root = assembled.root
    built = [path for path in Repository(root).changes() if part_of(path) == "generated"]
    made = changed_in_main(root, assembled.main, assembled.commit, GENERATED)
    paths = sorted({*made, *built, *assembled.generated})
    ours = {path: entry.oid for path, entry in entries_at(root, assembled.commit, paths).items()}
    ours |= {path: _blob_of(root, path) for path in built}
    theirs = {path: entry.oid for path, entry in entries_at(root, assembled.request, paths).items()}
    return tuple(path for path in paths if ours.get(path, "") != theirs.get(path, ""))


def _blob_of(root: Path, path: str) -> str:
    """Id of the blob that a file would be; empty where there is none."""
    data = read_plain(root / path) if (root / path).exists() else None
    return "" if data is None else git(root, "hash-object", "--stdin", data=data).decode().strip()
