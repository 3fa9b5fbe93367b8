"""What a build hands over to the job that publishes: locks and records in a folder, taken as the data of a stranger.

The machine that builds reads what strangers chose, so what comes from it is believed in nothing but what is checked
here, and by whoever publishes: names that locks and records have, plain files, a limit on each and on all. Pipelines
are never taken: the assembled tree has its own.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from builder.request.assembled import request_folder
from builder.request.names import MODELS, home_of
from builder.request.open import open_request
from builder.work import write_file
from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.plain_file import read_plain
from registry.record import BASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.request.assembled import Assembled
    from registry.history import Repository

__all__ = ["open_handed", "take_over"]

_MOST_FILES = 10_000
_MOST_BYTES = 512 << 20
_RECORDS = "records"


def open_handed(repository: Repository, request: str, folder: Path) -> Assembled:
    """A request's work tree, made anew, with what a build elsewhere handed over.

    Args:
        repository: A clone in which the request was not built.
        request: Branch or commit that was built.
        folder: What was handed over.

    Raises:
        ConflictError: The request has a tree here already, which stages may have written to.
        Error: What :func:`builder.request.open.open_request` and :func:`take_over` raise.
    """
    place = request_folder(repository.root, repository.resolve(request))
    if place.exists():
        raise ConflictError(
            "the request has a tree here already",
            where=str(place),
            mend="publish what was handed over from a fresh clone; what was built here, without --from",
        )
    assembled = open_request(repository, request)
    take_over(assembled, folder)
    return assembled


def take_over(assembled: Assembled, folder: Path) -> tuple[str, ...]:
    """Put the locks and records of a build elsewhere into a request's tree, in place of those that it has there.

    Args:
        assembled: The request's work tree; of its variants and of the bases alone something is taken.
        folder: What the build handed over, laid out as a repository is.

    Returns:
        Paths that were taken.

    Raises:
        NotFoundError: Nothing was handed over.
        InvalidError: There is a link, a file of another name, or more than the limits; nothing was written.
    """
    if not folder.is_dir():
        raise NotFoundError("there is no such folder", where=str(folder), mend="name what the build handed over")
    homes = {BASES, *(f"{MODELS}/{path.parent.name}" for path in (assembled.root / MODELS).glob("*/model.yaml"))}
    paths: list[str] = []
    for path in _files(folder, folder):
        if home_of(path) not in homes:
            raise _strange(folder / path, "neither a lock nor a record of a variant of this request")
        paths.append(path)
        if len(paths) > _MOST_FILES:
            raise _strange(folder, f"more than {_MOST_FILES} files")
    if not paths:
        raise NotFoundError("nothing was handed over", where=str(folder), mend="look at what the build said")
    if sum((folder / path).lstat().st_size for path in paths) > _MOST_BYTES:
        raise _strange(folder, f"more than {_MOST_BYTES} bytes")
    taken = {path: read_plain(folder / path) for path in paths}
    for home in sorted({home_of(path) for path in paths}):
        records = assembled.root / home / _RECORDS
        for old in (*records.glob("*.json"), *records.glob("*.tsv")):
            old.unlink()
    for path, data in taken.items():
        (assembled.root / path).parent.mkdir(parents=True, exist_ok=True)
        write_file(assembled.root / path, data)
    return tuple(sorted(paths))


def _files(root: Path, folder: Path) -> Iterator[str]:
    """Plain files, by their paths from the root; a link is followed nowhere."""
    with os.scandir(folder) as entries:
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _files(root, Path(entry.path))
            elif stat.S_ISREG(mode):
                yield Path(entry.path).relative_to(root).as_posix()
            else:
                raise _strange(Path(entry.path), "no plain file")


def _strange(path: Path, problem: str) -> InvalidError:
    return InvalidError(
        problem, where=ascii(str(path))[1:-1], mend="do not publish this: look at the machine that built"
    )
