"""What a build left in a request's tree: its locks and records, read plainly, and whether all else is as it was.

Stages could write anything there. So no git runs in it and no link is followed; what is compared is compared with the
request's commit, by the runner's own repository.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from builder.records import curve_table
from builder.request.inside import blob_id, blob_inside, read_inside
from builder.request.names import DATA, MODELS, home_of, part_of
from builder.request.plumbing import tree_files
from registry.errors import InvalidError
from registry.lock import Lock
from registry.record import BASES, Record, curve_file, git_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.request.assembled import Assembled
    from builder.request.plumbing import Entry

__all__ = ["altered", "harvest"]

_RECORDS = "records"
_CURVE = ".tsv"


def harvest(assembled: Assembled) -> dict[str, bytes | None]:
    """Locks and records that differ from the request's commit; ``None`` where one is gone.

    Records are taken that a lock names, and no others. Pipelines are made from manifests, so the commit has them right.

    Raises:
        InvalidError: A lock or record is a link, no plain file, too large, or no lock.
    """
    files = tree_files(assembled.home, assembled.commit)
    found: dict[str, bytes | None] = {}
    for home in _homes(files):
        own = f"{home}/dvc.lock"
        lock = read_inside(assembled.root, own)
        known = [path for path in files if home_of(path) == home]
        for path in dict.fromkeys((own, *known, *_named(home, lock or b""))):
            data = lock if path == own else _left(assembled.root, path)
            before = files[path].oid if path in files else ""
            after = "" if data is None else blob_id(data, like=assembled.commit)
            if before != after:
                found[path] = data
    return found


def altered(assembled: Assembled) -> tuple[str, ...]:
    """Manifests, params.yaml and data that are not those of the request's commit, sorted.

    Raises:
        InvalidError: One of them is a link, or no plain file.
    """
    files = tree_files(assembled.home, assembled.commit)
    own = [path for path, one in files.items() if _decides(path) and _is_file(one)]
    found = {path for path in own if blob_inside(assembled.root, path, like=assembled.commit) != files[path].oid}
    found |= {
        path for path in _paths(assembled.root) if path not in files and _decides(path) and not _is_fetched(path, files)
    }
    return tuple(sorted(found))


def _homes(files: Mapping[str, Entry]) -> list[str]:
    return [BASES, *sorted(path.rpartition("/")[0] for path in files if part_of(path) == "manifest")]


def _left(root: Path, path: str) -> bytes | None:
    """What a build left: a lock or a record as it lies; a curve as the record beside it has it, whatever lies there.

    Raises:
        InvalidError: It is a link, no plain file, or too large.
    """
    if not path.endswith(_CURVE):
        return read_inside(root, path)
    beside = f"{path.removesuffix(_CURVE)}.json"
    data = read_inside(root, beside)
    try:
        return (curve_table(Record.from_bytes(data, where=beside)) or None) if data is not None else None
    except InvalidError:  # of which whoever judges the record will speak
        return None


def _named(home: str, lock: bytes) -> Iterator[str]:
    """Paths of the records that belong to a lock, and of their curves."""
    for name in Lock.parse(lock, where=f"{home}/dvc.lock").stages:
        stage, _, base = name.partition("@")
        variant, own = home.rpartition("/")[2], base if home == BASES else name
        if stage != _RECORDS and home_of(str(git_record(variant, own))) == home:
            yield str(git_record(variant, own))
            yield str(curve_file(variant, own))


def _decides(path: str) -> bool:
    """Whether a path decides what a build does."""
    return part_of(path) not in {"generated", "left"}


def _is_file(entry: Entry) -> bool:
    return entry.mode in {"100644", "100755"}


def _is_fetched(path: str, files: Mapping[str, Entry]) -> bool:
    """Whether a file is what a ``.dvc`` file speaks of, beside it or beside a folder that it lies in."""
    parts = path.split("/")
    return any(f"{'/'.join(parts[:end])}.dvc" in files for end in range(1, len(parts) + 1))


def _paths(root: Path) -> Iterator[str]:
    """What lies below data/, and the manifests; links are named and not followed."""
    for place, folders, names in os.walk(root / DATA):
        links = [name for name in folders if os.path.islink(f"{place}/{name}")]  # noqa: PTH114 - as os.walk
        yield from (os.path.relpath(f"{place}/{name}", root) for name in (*names, *links))
    if (root / MODELS).is_dir():
        for folder in sorted((root / MODELS).iterdir()):
            if os.path.lexists(folder / "model.yaml"):
                yield f"{MODELS}/{folder.name}/model.yaml"
