"""The gate over a request: judged in its assembled tree, and what would be merged held against what a runner wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.graph import build_graph
from builder.load import load
from builder.release import judge_variant
from builder.request.between import unwritten_between
from builder.request.built import GENERATED
from builder.request.changes import changed_in_main
from builder.request.gated import Gated
from builder.request.harvest import harvest
from builder.request.inside import blob_id
from builder.request.names import PROJECT
from builder.request.plumbing import entries_at, git
from builder.request.project import TAKEN_KEYS
from builder.request.touched import touched_variants
from registry import yaml12
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
    unwritten = _unwritten(assembled)
    between = unwritten_between(assembled.home, assembled.request, assembled.main, assembled.builds)
    return Gated(
        verdicts=tuple(judge_variant(root, name) for name in names),
        assembled=assembled,
        unwritten=unwritten,
        between=tuple(one for one in between if one.path not in unwritten),
        bounds=tuple(name for name in names if _changes_bounds(assembled, name)),
    )


def _touched(assembled: Assembled) -> tuple[str, ...]:
    differing = changed_in_main(
        assembled.home, assembled.main, assembled.commit, ["models/**", "data/**", "rewards/**", "bases/**"]
    )
    graph = build_graph(load(assembled.root))
    return touched_variants(graph, [*differing, *harvest(assembled)], _changed_keys(assembled))


def _changed_keys(assembled: Assembled) -> list[str]:
    """Keys of params.yaml, two deep, whose value differs from main's."""
    before, after = (_document(assembled.home, one, PROJECT) for one in (assembled.main, assembled.commit))
    keys = []
    for table in TAKEN_KEYS:
        old, new = (value if isinstance(value, dict) else {} for value in (before.get(table), after.get(table)))
        keys += [f"{table}.{key}" for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return keys


def _changes_bounds(assembled: Assembled, variant: str) -> bool:
    """Whether a variant that main has is judged by other checks than there."""
    path = str(manifest_file(variant))
    before, after = (_document(assembled.home, one, path) for one in (assembled.main, assembled.commit))
    return before != {} and before.get("checks") != after.get("checks")


def _document(root: Path, commit: str, path: str) -> dict[str, JSON]:
    entry = entries_at(root, commit, [path]).get(path)
    value = yaml12.load(git(root, "cat-file", "blob", entry.oid), path).value if entry is not None else {}
    return value if isinstance(value, dict) else {}


def _unwritten(assembled: Assembled) -> tuple[str, ...]:
    """What a merge would bring that is not what stands in the assembled tree; the request may lack what it needs."""
    root = assembled.home
    built = harvest(assembled)
    made = changed_in_main(root, assembled.main, assembled.commit, GENERATED)
    paths = sorted({*made, *built, *assembled.generated})
    ours = {path: entry.oid for path, entry in entries_at(root, assembled.commit, paths).items()}
    ours |= {path: "" if data is None else blob_id(data, like=assembled.commit) for path, data in built.items()}
    theirs = {path: entry.oid for path, entry in entries_at(root, assembled.request, paths).items()}
    return tuple(path for path in paths if ours.get(path, "") != theirs.get(path, ""))
