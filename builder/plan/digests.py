"""Hashes of files and folders of the work tree, remembered by path, size, time of change and inode.

A hash is remembered only where a later change of the file must show: one whose time of change is not well before the
moment of reading could be changed again within the same tick of the clock. A file dated in the future is thus hashed
each time, which is slow and never wrong.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from builder.data_folder import folder_digest, listing_md5
from builder.plan.memo import Hashes
from registry.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.plan.memo import Memo

__all__ = ["TICK_NS", "Digests", "listing_md5"]

TICK_NS = 2_000_000_000
"""No clock of a file system is coarser; what is younger may change once more without a sign."""

_LARGE_BYTES = 4 << 20  # from here on files are hashed beside each other
_BLOCK_BYTES = 1 << 20
_NEITHER = Hashes(-1, 0, 0, "", "")


class Digests:
    """Hashes of one work tree, each file read once; :meth:`save` writes down what was read."""

    def __init__(self, root: Path, memo: Memo) -> None:
        """Begin with what the memo knows; it is read at the first question."""
        self._root = str(root)
        self._memo = memo
        self._known: dict[str, Hashes] | None = None
        self._new: dict[str, Hashes] = {}
        self._folders: dict[str, str] = {}
        self._began_ns = time.time_ns()
        self.future: set[str] = set()

    def md5(self, path: str) -> str:
        """DVC's name of a file's content; empty where there is no such file.

        Raises:
            OSError: It cannot be read.
        """
        found = self._facts(path)
        return "" if found is None else self._hashed([(path, found)], "md5")[path].md5

    def sha256(self, path: str) -> Digest | None:
        """Digest of a data file, or of a folder of them; ``None`` where there is neither.

        Raises:
            OSError: It cannot be read.
        """
        found = self._facts(path)
        if found is None:
            return self._folder_sha256(path)
        return Digest(self._hashed([(path, found)], "sha256")[path].sha256)

    def folder_md5(self, path: str) -> str:
        """DVC's name of a folder's content, ``<md5>.dir``; empty where there is no such folder.

        Raises:
            OSError: A file in it cannot be read.
        """
        if path not in self._folders:
            self._folders[path] = self._folder_md5(path)
        return self._folders[path]

    def save(self) -> None:
        """Write down what was read and may be remembered."""
        self._memo.keep_files(self._new)
        self._new = {}

    def _folder_md5(self, path: str) -> str:
        top = f"{self._root}/{path}"
        if not os.path.isdir(top):  # noqa: PTH112 - many of them; pathlib takes three times as long
            return ""
        files = list(_walk(top, ""))
        hashed = self._hashed([(f"{path}/{name}", facts) for name, facts in files], "md5")
        return listing_md5((name, hashed[f"{path}/{name}"].md5) for name, _ in files)

    def _folder_sha256(self, path: str) -> Digest | None:
        """As :func:`builder.data_folder.data_digest` has it: hidden files do not count."""
        top = f"{self._root}/{path}"
        if not os.path.isdir(top):  # noqa: PTH112 - as above
            return None
        shown = [(name, facts) for name, facts in _walk(top, "") if not f"/{name}".count("/.")]
        hashed = self._hashed([(f"{path}/{name}", facts) for name, facts in shown], "sha256")
        return folder_digest((name, facts.st_size, Digest(hashed[f"{path}/{name}"].sha256)) for name, facts in shown)

    def _facts(self, path: str) -> os.stat_result | None:
        try:
            found = os.stat(f"{self._root}/{path}")  # noqa: PTH116 - as above
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def _hashed(self, files: list[tuple[str, os.stat_result]], name: str) -> dict[str, Hashes]:
        """The files' hashes of one kind; what is not known is read, large files beside each other."""
        if self._known is None:
            self._known = self._memo.files()
        found: dict[str, Hashes] = {}
        unknown: list[tuple[str, os.stat_result]] = []
        for path, facts in files:
            known = self._known.get(path, _NEITHER)
            if known[:3] != (facts.st_size, facts.st_mtime_ns, facts.st_ino) or not getattr(known, name):
                unknown.append((path, facts))
            else:
                found[path] = known
        for path, facts, value in self._read(unknown, name):
            known = self._known.get(path, _NEITHER)
            state = (facts.st_size, facts.st_mtime_ns, facts.st_ino)
            md5, sha256 = known[3:] if known[:3] == state else ("", "")
            md5, sha256 = (value, sha256) if name == "md5" else (md5, value)
            found[path] = self._known[path] = Hashes(*state, md5, sha256)
            if facts.st_mtime_ns < self._began_ns - TICK_NS:
                self._new[path] = found[path]
            elif facts.st_mtime_ns > self._began_ns + TICK_NS:
                self.future.add(path)
        return found

    def _read(self, files: list[tuple[str, os.stat_result]], name: str) -> Iterator[tuple[str, os.stat_result, str]]:
        large = [one for one in files if one[1].st_size >= _LARGE_BYTES]
        for path, facts in files:
            if facts.st_size < _LARGE_BYTES:
                yield path, facts, _hash(f"{self._root}/{path}", name)
        if large:
            paths = [f"{self._root}/{path}" for path, _ in large]
            with ThreadPoolExecutor(min(len(large), len(os.sched_getaffinity(0)))) as pool:
                hashes = pool.map(lambda path: _hash(path, name), paths)
                yield from ((path, facts, value) for (path, facts), value in zip(large, hashes, strict=True))


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder, links to files followed; DVC does not go into linked folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{name}/")
            elif not entry.is_dir():
                yield name, entry.stat()


def _hash(path: str, name: str) -> str:
    state = hashlib.md5(usedforsecurity=False) if name == "md5" else hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - as above
        while block := stream.read(_BLOCK_BYTES):
            state.update(block)
    return state.hexdigest()
