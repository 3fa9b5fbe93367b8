"""Folders of data: which files count, in which order, and the digest of them all. Light."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from registry.artifact import Artifact, FileEntry
from registry.digest import digest_file
from registry.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from registry.digest import Digest

__all__ = ["data_digest", "data_files", "folder_digest", "folder_md5", "listing_md5"]

_TRACKED = ".dvc"


def data_files(folder: Path) -> list[str]:
    """Paths in a folder of every file of rows, in the order in which they are read: hidden and ``.dvc`` files are none.

    Raises:
        NotFoundError: DVC keeps one that was not fetched.
        InvalidError: There is a link among them, or none at all.
    """
    found = _shown(folder)
    for name in found:
        if name.endswith(_TRACKED) and name.removesuffix(_TRACKED) not in found:
            missing = f"{folder}/{name.removesuffix(_TRACKED)}"
            raise NotFoundError("the data file is not there", where=missing, mend="fetch it with `dvc pull`")
    found = [name for name in found if not name.endswith(_TRACKED)]
    if not found:
        raise InvalidError("no files in the folder", where=str(folder), mend="put files of rows there")
    return found


def _shown(folder: Path) -> list[str]:
    """Every file that is not hidden, sorted."""
    found = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if (path.is_symlink() or not path.is_dir())
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    for name in found:
        if (folder / name).is_symlink():
            raise InvalidError("a link", where=f"{folder}/{name}", mend="put the file itself there")
    return found


def folder_md5(folder: Path) -> str:
    """DVC's name of a folder's content, ``<md5>.dir``, hidden files and all."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return listing_md5((path.relative_to(folder).as_posix(), _md5(path)) for path in files)


def listing_md5(files: Iterable[tuple[str, str]]) -> str:
    """DVC's name of a folder: the md5 of the list of its files.

    Args:
        files: Path within the folder, and md5, of each.
    """
    rows = [{"md5": md5, "relpath": name} for name, md5 in sorted(files)]
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def data_digest(path: Path) -> Digest:
    """Digest of a data file; of a folder, that of the listing of its files, those that are hidden left out.

    Raises:
        FileNotFoundError: It is not there.
        InvalidError: A folder has a link in it.
    """
    if not path.is_dir():
        return digest_file(path)
    names = _shown(path)
    return folder_digest((name, (path / name).stat().st_size, digest_file(path / name)) for name in names)


def folder_digest(files: Iterable[tuple[str, int, Digest]]) -> Digest:
    """The digest of a folder by the paths, sizes and digests of its files, hidden ones left out."""
    listed = tuple(FileEntry(path=path, size_bytes=size, digest=digest) for path, size, digest in sorted(files))
    return Artifact(type="model", files=listed, tensors=()).digest


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
