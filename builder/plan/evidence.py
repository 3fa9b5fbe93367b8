"""What lies in the repository, each thing read once: locks, records, hashes of data and of artifacts.

Locks and records are those of the work tree, or of a commit; manifests, data and artifacts are always the work tree's.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

from builder.copies import copy_problem, record_md5
from builder.places import beside_of, copy_of, folder_of
from registry import yaml12
from registry.errors import InvalidError
from registry.lock import Lock, content_md5
from registry.record import BASES, Record, lock_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from builder.address import Address
    from builder.plan.digests import Digests
    from registry.canonical import JSON
    from registry.digest import Digest
    from registry.history import Repository
    from registry.lock import LockedStage

__all__ = ["MISSING", "CommitTexts", "Evidence", "Texts", "TreeTexts", "locked_name"]

MISSING = object()
"""Stands for a key that a file does not have."""


class Texts(Protocol):
    """Where locks and records are read from."""

    def read(self, path: str) -> bytes | None:
        """Bytes of a file, by path from the root; ``None`` where there is none."""
        ...


class TreeTexts:
    """Files of the work tree."""

    def __init__(self, root: Path) -> None:
        """Read below ``root``."""
        self._root = str(root)

    def read(self, path: str) -> bytes | None:
        """Bytes of a file, by path from the root; ``None`` where there is none.

        Raises:
            OSError: It cannot be read.
        """
        try:
            with open(f"{self._root}/{path}", "rb") as stream:  # noqa: PTH123 - thousands of them
                return stream.read()
        except (FileNotFoundError, NotADirectoryError):
            return None


class CommitTexts:
    """Files as a commit has them; those that are known to be asked for are read by one process of git."""

    def __init__(self, repository: Repository, commit: str, paths: Iterable[str]) -> None:
        """Read ``paths`` now, others when they are asked for.

        Raises:
            InvalidError: A path has a line break in it.
        """
        self._repository = repository
        self._commit = commit
        wanted = sorted(set(paths))
        blobs = repository.read_blobs([f"{commit}:{path}" for path in wanted])
        self._found = dict(zip(wanted, blobs, strict=True))

    def read(self, path: str) -> bytes | None:
        """Bytes of a file, by path from the root; ``None`` where there is none up to 64 MiB."""
        if path not in self._found:
            self._found[path] = next(self._repository.read_blobs([f"{self._commit}:{path}"]))
        return self._found[path]


class Evidence:
    """What stands where, as far as it was asked for.

    Attributes:
        unreadable: Why a record cannot be read that the lock names, by its path.
    """

    def __init__(
        self, root: Path, digests: Digests, texts: Texts, documents: Mapping[str, JSON], *, in_tree: bool
    ) -> None:
        """Begin with nothing read.

        Args:
            root: Root of the repository.
            digests: Hashes of the work tree.
            texts: Locks and records.
            documents: Values of the manifests and of params.yaml, by file.
            in_tree: Whether the artifacts in the work tree belong to these locks.
        """
        self._root = root
        self._digests = digests
        self._texts = texts
        self._documents = documents
        self._in_tree = in_tree
        self._locks: dict[str, Lock] = {}
        self._data: dict[str, str | None] = {}
        self._records: dict[Address, Record | None] = {}
        self.unreadable: dict[str, str] = {}

    def locked(self, address: Address) -> LockedStage | None:
        """A stage as its lock has it; ``None`` where it was never built.

        Raises:
            InvalidError: The lock cannot be read.
        """
        return self._lock(address.variant).stages.get(locked_name(address))

    def value(self, file: str, key: str) -> object:
        """A value of a manifest or of params.yaml, by dotted key; :data:`MISSING` where there is none."""
        value: object = self._documents.get(file)
        for part in key.split("."):
            value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
        return value

    def data_md5(self, path: str) -> str | None:
        """DVC's name of a data file; of one that was not fetched, what its ``.dvc`` file says.

        Returns:
            ``None`` where a ``.dvc`` file of a folder around it has the name, which is not opened: DVC then takes the
            data for unchanged.
        """
        if path not in self._data:
            here = self._digests.md5(path) or self._digests.folder_md5(path)
            self._data[path] = here or self._tracked_md5(path)
        return self._data[path]

    def folder_md5(self, address: Address) -> str:
        """DVC's name of the artifact in the work tree; empty where there is none that the locks speak of."""
        return self._digests.folder_md5(folder_of(address)) if self._in_tree else ""

    def beside_md5(self, address: Address) -> str:
        """DVC's name of the record beside that artifact; empty where there is none that the locks speak of."""
        return self._digests.md5(beside_of(address)) if self._in_tree else ""

    def record(self, address: Address) -> Record | None:
        """The record of a stage, if it is the one that the lock names; git's copy, or DVC's beside the artifact."""
        if address not in self._records:
            self._records[address] = self._matching_record(address)
        return self._records[address]

    def record_problem(self, address: Address, locked: LockedStage) -> str:
        """Why git's copy of a record is not to be believed; empty where it is."""
        return copy_problem(address, self._texts.read(copy_of(address)), record_md5(locked, address))

    def is_cached(self, oid: str) -> bool:
        """Whether DVC's cache has an object; a folder with all of its files."""
        return not self.missing_bytes(oid, {})[1]

    def missing_bytes(self, oid: str, sizes: Mapping[str, int]) -> tuple[int, bool]:
        """Bytes of a folder that DVC's cache lacks, as far as the sizes are known, and whether it lacks any.

        Args:
            oid: The object, ``<md5>.dir`` for a folder.
            sizes: Size of each file by its path in the folder; a folder whose listing is missing lacks all of them.
        """
        path = self._object(oid)
        if not path.is_file():
            return sum(sizes.values()), True
        if not oid.endswith(".dir"):
            return 0, False
        try:
            rows = {str(row["relpath"]): str(row["md5"]) for row in json.loads(path.read_bytes())}
        except (ValueError, TypeError, KeyError):
            return sum(sizes.values()), True
        lacking = [name for name, md5 in rows.items() if not self._object(md5).is_file()]
        return sum(sizes.get(name, 0) for name in lacking), bool(lacking)

    def sha256(self, path: str) -> Digest | None:
        """Digest of a data file; ``None`` where it is not here."""
        return self._digests.sha256(path)

    def _object(self, oid: str) -> Path:
        return self._cache / "files" / "md5" / oid[:2] / oid[2:]

    @cached_property
    def _cache(self) -> Path:
        from registry.remote import DvcCache  # noqa: PLC0415 - only where something was changed

        return DvcCache(self._root).folder

    def tracked(self, path: str) -> tuple[str, int]:
        """Object and size of a data file, as the ``.dvc`` file beside it says; nothing without one.

        Raises:
            InvalidError: That file cannot be read, or has no output with an md5.
        """
        where = f"{path}.dvc"
        data = TreeTexts(self._root).read(where)
        if data is None:
            return "", 0
        outs = _table(yaml12.load(data, where).value).get("outs")
        first = _table(outs[0] if isinstance(outs, list) and outs else None)
        md5, size = first.get("md5"), first.get("size")
        if not isinstance(md5, str):
            raise InvalidError(
                "the file names no output with an md5", where=where, mend="restore it from git, or `dvc add` the data"
            )
        return md5, size if isinstance(size, int) else 0

    def _tracked_md5(self, path: str) -> str | None:
        """What the ``.dvc`` file beside says; ``None`` where one of a folder around speaks of it; empty without any."""
        if os.path.exists(self._root / f"{path}.dvc"):  # noqa: PTH110 - a link that leads nowhere is none
            return self.tracked(path)[0]
        folders = PurePosixPath(path).parents[:-1]
        return None if any((self._root / f"{folder}.dvc").is_file() for folder in folders) else ""

    def _matching_record(self, address: Address) -> Record | None:
        locked = self.locked(address)
        output = None if locked is None else locked.outputs.get(beside_of(address))
        if output is None:
            return None
        for path in (copy_of(address), beside_of(address)):
            data = self._texts.read(path)
            if data is not None and content_md5(data) == output.md5:
                try:
                    return Record.from_bytes(data, where=path)
                except InvalidError as error:
                    self.unreadable[path] = error.what
                    return None
        return None

    def _lock(self, variant: str) -> Lock:
        if variant not in self._locks:
            self._locks[variant] = self._read_lock(str(lock_file(variant)))
        return self._locks[variant]

    def _read_lock(self, path: str) -> Lock:
        return Lock.parse(self._texts.read(path) or b"", where=path)


def locked_name(address: Address) -> str:
    """What DVC calls a stage in its lock."""
    return f"base@{address.stage}" if address.variant == BASES else address.stage


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
