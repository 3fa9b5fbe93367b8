"""The Artifact value: an immutable folder of files, its digests, and its listing ``artifact.json``.

The artifact digest is the sha256 of the canonical JSON ``[[path, size in bytes, digest], ...]`` sorted by path, with
``artifact.json`` itself left out. The weights digest is the sha256 of the canonical JSON
``[[name, dtype, shape, digest], ...]`` sorted by name: the same weights have one weights digest under any sharding.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, get_args

from registry.canonical import decode, encode, pretty
from registry.digest import Digest, Hasher, digest_bytes, digest_file
from registry.errors import DigestMismatchError, InvalidError, NotFoundError
from registry.plain_file import read_plain
from registry.safetensors import WrittenFile, WrittenTensor, read_header
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from registry.canonical import JSON

__all__ = ["LISTING", "Artifact", "ArtifactType", "FileEntry", "TensorEntry", "check_path"]

LISTING = "artifact.json"
SCHEMA = "varietal/artifact/1"

ArtifactType = Literal["model", "adapter", "report"]

_BLOCK_BYTES = 1 << 20
_MAX_PATH_CHARACTERS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file: path in the folder (POSIX, relative), size, digest of its bytes."""

    path: str
    size_bytes: int
    digest: Digest

    def to_dict(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        return {"path": self.path, "size_bytes": self.size_bytes, "digest": str(self.digest)}

    @classmethod
    def from_table(cls, table: Table) -> FileEntry:
        """Read one entry of a listing.

        Raises:
            InvalidError: A key is missing or unknown, or a path leaves the folder.
        """
        table.only("path", "size_bytes", "digest")
        path = check_path(table.text("path"), where=table.where)
        return cls(path=path, size_bytes=table.count("size_bytes"), digest=table.digest("digest"))


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """One tensor: name, safetensors dtype, shape, the file that it lies in, digest of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    digest: Digest

    def to_dict(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "file": self.file,
            "digest": str(self.digest),
        }

    @classmethod
    def from_table(cls, table: Table) -> TensorEntry:
        """Read one entry of a listing.

        Raises:
            InvalidError: A key is missing or unknown, or a value is of the wrong type.
        """
        table.only("name", "dtype", "shape", "file", "digest")
        return cls(
            name=table.text("name"),
            dtype=table.text("dtype"),
            shape=table.counts("shape"),
            file=table.text("file"),
            digest=table.digest("digest"),
        )


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A folder of files and the tensors in them.

    Attributes:
        type: What the folder is: ``model``, ``adapter`` or ``report``.
        files: Sorted by path, ``artifact.json`` left out.
        tensors: Sorted by name.
    """

    type: ArtifactType
    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]

    @cached_property
    def digest(self) -> Digest:
        """Identity of the folder."""
        return digest_bytes(encode([[file.path, file.size_bytes, str(file.digest)] for file in self.files]))

    @cached_property
    def weights_digest(self) -> Digest | None:
        """Identity of the weights, whatever files they lie in; ``None`` where there are none."""
        if not self.tensors:
            return None
        rows = [[entry.name, entry.dtype, list(entry.shape), str(entry.digest)] for entry in self.tensors]
        return digest_bytes(encode(rows))

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, ``artifact.json`` left out."""
        return sum(file.size_bytes for file in self.files)

    @cached_property
    def _tensors_by_file(self) -> Mapping[str, tuple[TensorEntry, ...]]:
        table: dict[str, list[TensorEntry]] = {}
        for entry in self.tensors:
            table.setdefault(entry.file, []).append(entry)
        return {file: tuple(entries) for file, entries in table.items()}

    def written(self, path: str) -> WrittenFile:
        """One file of this artifact as its writer would report it, for a folder that links to it.

        Raises:
            KeyError: There is no such file.
        """
        file = next((entry for entry in self.files if entry.path == path), None)
        if file is None:
            raise KeyError(path)
        tensors = tuple(
            WrittenTensor(name=entry.name, dtype=entry.dtype, shape=entry.shape, digest=entry.digest)
            for entry in self._tensors_by_file.get(path, ())
        )
        return WrittenFile(path=path, size_bytes=file.size_bytes, digest=file.digest, tensors=tensors)

    def to_dict(self) -> dict[str, JSON]:
        """The value of ``artifact.json``."""
        return {
            "schema": SCHEMA,
            "type": self.type,
            "files": [file.to_dict() for file in self.files],
            "tensors": [entry.to_dict() for entry in self.tensors],
        }

    def to_bytes(self) -> bytes:
        """The bytes of ``artifact.json``."""
        return pretty(self.to_dict())

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Artifact:
        """Read ``artifact.json``.

        Raises:
            InvalidError: It breaks the schema, or a tensor lies in a file that is not listed.
        """
        table = Table(decode(data, where=where), where)
        table.only("schema", "type", "files", "tensors")
        table.constant("schema", SCHEMA)
        kind: ArtifactType = table.choice("type", get_args(ArtifactType))
        files = tuple(FileEntry.from_table(row) for row in table.rows("files"))
        tensors = tuple(TensorEntry.from_table(row) for row in table.rows("tensors"))
        return _checked(cls(type=kind, files=files, tensors=tensors), where)

    @classmethod
    def read(cls, folder: Path) -> Artifact:
        """Read a folder's listing; the files themselves are not looked at.

        Raises:
            NotFoundError: The folder has no listing.
            InvalidError: The listing breaks the schema, is larger than 64 MiB, or is no plain file.
        """
        path = folder / LISTING
        try:
            data = read_plain(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(
                f"there is no {LISTING}",
                where=str(folder),
                mend="build the stage (`dvc repro`) or fetch it (`dvc pull`, `varietal pull`)",
            ) from error
        return cls.from_bytes(data, where=str(path))

    @classmethod
    def from_folder(cls, folder: Path, kind: ArtifactType, written: Iterable[WrittenFile] = ()) -> Artifact:
        """Describe a folder; files that ``written`` does not name are read and hashed.

        Raises:
            InvalidError: A symlink or a special file, a broken safetensors file, one tensor in two files.
        """
        known = {file.path: file for file in written}
        summaries = [known.get(path) or _summarise(folder, path) for path in _walk(folder)]
        tensors = [
            TensorEntry(name=one.name, dtype=one.dtype, shape=one.shape, file=file.path, digest=one.digest)
            for file in summaries
            for one in file.tensors
        ]
        artifact = cls(
            type=kind,
            files=tuple(
                FileEntry(path=file.path, size_bytes=file.size_bytes, digest=file.digest) for file in summaries
            ),
            tensors=tuple(sorted(tensors, key=lambda entry: entry.name)),
        )
        return _checked(artifact, str(folder))

    def write(self, folder: Path) -> Digest:
        """Write ``artifact.json`` into the folder and return the digest of its bytes."""
        data = self.to_bytes()
        (folder / LISTING).write_bytes(data)
        return digest_bytes(data)

    def verify_folder(self, folder: Path) -> None:
        """Hash every file of the folder; the listing must name exactly what is there.

        Raises:
            NotFoundError: A file is missing.
            DigestMismatchError: A file has other bytes.
            InvalidError: A file is not listed, or is a symlink or special file.
        """
        present = set(_walk(folder))
        for file in self.files:
            if file.path not in present:
                raise NotFoundError(
                    f"{file.path} is missing", where=str(folder), mend="fetch or build the artifact again"
                )
            _verify_file(folder, file)
        extra = sorted(present - {file.path for file in self.files})
        if extra:
            raise InvalidError(
                f"{', '.join(extra)}: not part of the artifact",
                where=str(folder),
                mend="remove it, or fetch the artifact into an empty folder",
            )


def check_path(path: str, *, where: str) -> str:
    """Return ``path`` if it stays inside its folder on every system.

    Raises:
        InvalidError: It is absolute, climbs with ``..``, is not in normal form, or has a character no file name needs.
    """
    parts = path.split("/")
    sound = (
        0 < len(path) <= _MAX_PATH_CHARACTERS
        and path.isprintable()
        and not set(path) & set('\\:*?"<>|')
        and all(part not in {"", ".", ".."} for part in parts)
    )
    if not sound:
        raise InvalidError(
            f"{path!r} is no plain path inside a folder",
            where=where,
            mend="do not use this file: its paths could write outside of its folder",
        )
    return path


def _checked(artifact: Artifact, where: str) -> Artifact:
    """The rules that hold between entries."""
    paths = [file.path for file in artifact.files]
    names = [entry.name for entry in artifact.tensors]
    problem = None
    if paths != sorted(set(paths)) or names != sorted(set(names)):
        problem = "files and tensors are not sorted, or one is there twice"
    elif len({path.casefold() for path in paths}) != len(paths):
        problem = "two file names differ in case only"
    elif LISTING in paths:
        problem = f"{LISTING} lists itself"
    elif missing := {entry.file for entry in artifact.tensors} - set(paths):
        problem = f"tensors lie in files that are not listed: {', '.join(sorted(missing))}"
    if problem is not None:
        raise InvalidError(problem, where=where, mend="fetch or build the artifact again")
    return artifact


def _walk(folder: Path) -> list[str]:
    """Sorted paths of all files but the listing.

    Raises:
        InvalidError: Something is neither a plain file nor a folder.
    """
    return sorted(path for path in _entries(folder, PurePosixPath()) if path != LISTING)


def _entries(folder: Path, prefix: PurePosixPath) -> Iterator[str]:
    with os.scandir(folder / prefix) as entries:
        for entry in entries:
            path = prefix / entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(folder, path)
            elif entry.is_file(follow_symlinks=False):
                yield check_path(str(path), where=str(folder))
            else:
                raise InvalidError(
                    f"{path} is a symlink or a special file",
                    where=str(folder),
                    mend="put the file itself there (with DVC: `dvc config cache.type reflink,hardlink,copy`)",
                )


def _summarise(folder: Path, path: str) -> WrittenFile:
    full = folder / path
    tensors = _hash_tensors(full) if path.endswith(".safetensors") else ()
    return WrittenFile(path=path, size_bytes=full.stat().st_size, digest=digest_file(full), tensors=tensors)


def _hash_tensors(path: Path) -> tuple[WrittenTensor, ...]:
    header = read_header(path)
    with path.open("rb", buffering=0) as stream:
        return tuple(
            WrittenTensor(
                name=info.name,
                dtype=info.dtype,
                shape=info.shape,
                digest=_hash_range(stream.fileno(), info.offset, info.size_bytes),
            )
            for info in header.tensors.values()
        )


def _hash_range(descriptor: int, offset: int, size_bytes: int) -> Digest:
    hasher = Hasher()
    end = offset + size_bytes
    while offset < end:
        block = os.pread(descriptor, min(_BLOCK_BYTES, end - offset), offset)
        hasher.update(block)
        offset += len(block)
    return hasher.digest()


def _verify_file(folder: Path, file: FileEntry) -> None:
    full = folder / file.path
    size_bytes = full.stat().st_size
    got = digest_file(full) if size_bytes == file.size_bytes else None
    if got != file.digest:
        found = f"{got}" if got else f"{size_bytes} bytes"
        raise DigestMismatchError(
            f"{file.path} has {found}, expected {file.digest} ({file.size_bytes} bytes)",
            where=str(folder),
            mend="remove the folder and fetch or build the artifact again",
        )
