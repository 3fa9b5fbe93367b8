"""The local content store: files by sha256, each seen only when it is whole.

``objects/ab/cdef...`` holds whole files, mode 0444; ``partial/abcdef...`` holds what has come of a file so far. A
partial file is locked while it grows, so many processes and threads can share one store, and it outlives a kill: the
next ``put`` hashes what is there and asks for the rest only. That a file is in the store is no proof of its bytes (a
hard link to it may have been written to), so ``link_out`` hashes it again before anyone sees it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from registry.digest import Digest, Hasher, digest_file
from registry.errors import ConflictError, DigestMismatchError, MachineError, NotFoundError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Link", "Readable", "Store", "Wanted", "disk_errors", "link", "sync_folder"]

_BLOCK_BYTES = 1 << 20
_FICLONE = 0x40049409  # <linux/fs.h>: share the extents of a whole file
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

Link = Literal["reflink", "hardlink", "copy"]


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A file to be put into the store.

    Attributes:
        path: Its name, for messages.
        digest: What its bytes must hash to.
        size_bytes: Its exact size; the most that it may have where ``open_ended``.
        open_ended: The exact size is not known beforehand.
    """

    path: str
    digest: Digest
    size_bytes: int
    open_ended: bool = False


class Store:
    """Files by digest in one folder, shared by processes and threads.

    Attributes:
        folder: Where they lie; made at the first ``put``.
    """

    def __init__(self, folder: Path) -> None:
        """Use ``folder``; nothing is made or read yet."""
        self.folder = folder

    def path(self, digest: Digest) -> Path:
        """Where a whole object lies, or would lie."""
        return self.folder / "objects" / digest.hex[:2] / digest.hex[2:]

    def has(self, digest: Digest) -> bool:
        """Whether an object is there; its bytes are not looked at."""
        return self.path(digest).is_file()

    def partial_bytes(self, digest: Digest) -> int:
        """Size of what an earlier, broken ``put`` left, in bytes."""
        try:
            return self._partial(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def put(self, wanted: Wanted, open_at: Callable[[int], AbstractContextManager[Readable]], *, origin: str) -> int:
        """Receive a file, from where an earlier attempt ended.

        Where the whole does not match although a part of it was there before, that part is dropped and the file is
        asked for once more from its first byte: the part may have come from another place.

        Args:
            wanted: The file.
            open_at: Opens the stream at an offset in bytes.
            origin: Where the stream comes from, for messages.

        Returns:
            Bytes that were read from the stream; 0 where the object was there already.

        Raises:
            DigestMismatchError: Other bytes came, or too many; nothing of them is kept.
            TransportError: The stream ended too early; what came is kept.
            MachineError: The disk is full (what came is kept), or the store cannot be written.
        """
        with disk_errors(self.folder, wanted.size_bytes):
            self._partial(wanted.digest).parent.mkdir(parents=True, exist_ok=True)
        with _locked(self._partial(wanted.digest)) as partial:
            if self.has(wanted.digest):  # another process was faster
                partial.remove()
                return 0
            moved = _fill(partial, wanted, open_at, origin)
            with disk_errors(self.folder, wanted.size_bytes):
                partial.show(self.path(wanted.digest))
            return moved

    def link_out(self, digest: Digest, target: Path) -> Link:
        """Hash an object again and link it to ``target``, whose folder is made.

        Args:
            digest: The object.
            target: A path that does not exist yet.

        Returns:
            How it was linked.

        Raises:
            NotFoundError: The object is not in the store.
            DigestMismatchError: Its bytes have changed; it was removed, so that the next ``put`` fetches it again.
            ConflictError: ``target`` exists.
            MachineError: The disk is full, or cannot be read or written.
        """
        source = self.path(digest)
        try:
            with disk_errors(self.folder, 0):
                got = digest_file(source)
        except FileNotFoundError as error:
            raise NotFoundError(f"{digest} is not in the store", where=str(self.folder), mend="pull again") from error
        if got != digest:
            raise self._drop(digest, got)
        with disk_errors(target, source.stat().st_size):
            target.parent.mkdir(parents=True, exist_ok=True)
        how = link(source, target)
        if how == "copy":  # read once more, so what was hashed is not what was written
            with disk_errors(target):
                got = digest_file(target)
                if got != digest:
                    target.unlink()
                    raise self._drop(digest, got)
        return how

    def check_space(self, needed_bytes: int) -> None:
        """Refuse before anything is moved if the disk cannot take it.

        Raises:
            MachineError: Fewer bytes are free.
        """
        with disk_errors(self.folder, needed_bytes):
            self.folder.mkdir(parents=True, exist_ok=True)
            free_bytes = shutil.disk_usage(self.folder).free
        if free_bytes < needed_bytes:
            raise _disk_full(self.folder, needed_bytes - free_bytes)

    def _drop(self, digest: Digest, got: Digest) -> DigestMismatchError:
        """Remove an object whose bytes have changed; the error for that."""
        source = self.path(digest)
        source.unlink(missing_ok=True)
        return DigestMismatchError(
            f"an object of the store has {got}, its name says {digest}",
            where=str(source),
            mend="it was removed and can be fetched again; check the disk, and who writes to pulled files",
        )

    def _partial(self, digest: Digest) -> Path:
        return self.folder / "partial" / digest.hex


class _Partial:
    """A file that grows, with the hash of what is in it."""

    __slots__ = ("_descriptor", "_hasher", "path", "size_bytes")

    def __init__(self, path: Path, descriptor: int) -> None:
        """Take over an open, locked file."""
        self.path = path
        self.size_bytes = 0
        self._descriptor = descriptor
        self._hasher = Hasher()

    @property
    def digest(self) -> Digest:
        return self._hasher.digest()

    def rehash(self, limit_bytes: int) -> None:
        """Hash what an earlier attempt left; more than ``limit_bytes`` cannot be right and is dropped."""
        if os.fstat(self._descriptor).st_size > limit_bytes:
            self.empty()
        while block := os.read(self._descriptor, _BLOCK_BYTES):
            self._count(block)

    def append(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._count(block)

    def empty(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self.size_bytes = 0
        self._hasher = Hasher()

    def remove(self) -> None:
        self.path.unlink()

    def show(self, path: Path) -> None:
        """Make it safe on disk and rename it to where it is seen."""
        path.parent.mkdir(parents=True, exist_ok=True)
        os.fchmod(self._descriptor, 0o444)
        os.fsync(self._descriptor)
        self.path.rename(path)
        sync_folder(path.parent)

    def _count(self, block: bytes) -> None:
        self._hasher.update(block)
        self.size_bytes += len(block)


def link(source: Path, target: Path) -> Link:
    """Give ``target`` the bytes of ``source``, as cheaply as the file system allows.

    Args:
        source: A file that nobody will write to again.
        target: A path that does not exist, in a folder that does.

    Returns:
        ``reflink`` (shared until one is written), else ``hardlink`` (the same file), else ``copy``.

    Raises:
        ConflictError: ``target`` exists.
        MachineError: The disk is full, or cannot be read or written.
    """
    try:
        with disk_errors(target, source.stat().st_size):
            return _link(source, target)
    except FileExistsError as error:
        raise ConflictError(
            f"{target.name} exists", where=str(target.parent), mend="remove it or choose another folder"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder safe against a loss of power.

    Raises:
        OSError: The disk failed.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> Link:
    if _reflink(source, target):
        return "reflink"
    with suppress(OSError):  # another file system, too many links, not allowed: then copy
        os.link(source, target)
        return "hardlink"
    _copy(source, target)
    return "copy"


def _reflink(source: Path, target: Path) -> bool:
    with _made(source, target) as (reader, writer):
        try:
            fcntl.ioctl(writer, _FICLONE, reader)
        except OSError:  # the file system cannot, or there are two of them
            target.unlink()
            return False
    return True


def _copy(source: Path, target: Path) -> None:
    with _made(source, target) as (reader, writer):
        try:
            while block := os.read(reader, _BLOCK_BYTES):
                view = memoryview(block)
                while view:
                    view = view[os.write(writer, view) :]
            os.fsync(writer)
        except OSError:
            target.unlink()
            raise


@contextmanager
def _made(source: Path, target: Path) -> Iterator[tuple[int, int]]:
    """Descriptors of an open file and of a new one with the same mode."""
    reader = os.open(source, os.O_RDONLY)
    try:
        mode = os.fstat(reader).st_mode & 0o777
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            yield reader, writer
        finally:
            os.close(writer)
    finally:
        os.close(reader)


@contextmanager
def _locked(path: Path) -> Iterator[_Partial]:
    """Open a partial file and hold its lock; a file that was renamed or removed in the meantime is opened anew."""
    while True:
        with disk_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(path, descriptor):
                yield _Partial(path, descriptor)
                return
        finally:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _fill(
    partial: _Partial, wanted: Wanted, open_at: Callable[[int], AbstractContextManager[Readable]], origin: str
) -> int:
    """Receive until the bytes are those wanted; returns how many were read from the stream."""
    partial.rehash(wanted.size_bytes)
    resumed = partial.size_bytes > 0
    moved = 0
    if partial.digest != wanted.digest:
        moved += _receive(partial, wanted, open_at, origin)
    if partial.digest != wanted.digest and resumed:
        partial.empty()
        moved += _receive(partial, wanted, open_at, origin)
    if partial.digest != wanted.digest:
        partial.remove()
        bound = " at most" if wanted.open_ended else ""
        found = "more bytes than that" if partial.size_bytes > wanted.size_bytes else str(partial.digest)
        raise DigestMismatchError(
            f"{wanted.path} should have {wanted.digest} ({wanted.size_bytes} bytes{bound}), got {found}",
            where=origin,
            mend="nothing of it was kept; push the artifact again from where it was built, or use another remote",
        )
    return moved


def _receive(
    partial: _Partial, wanted: Wanted, open_at: Callable[[int], AbstractContextManager[Readable]], origin: str
) -> int:
    """Append the stream; one byte beyond the size is enough to know that there are too many."""
    moved = 0
    with open_at(partial.size_bytes) as stream:
        while room := wanted.size_bytes + 1 - partial.size_bytes:
            block = stream.read(min(_BLOCK_BYTES, room))
            if not block:
                break
            with disk_errors(partial.path, wanted.size_bytes - partial.size_bytes):
                partial.append(block)
            moved += len(block)
    if partial.size_bytes < wanted.size_bytes and not wanted.open_ended:
        raise TransportError(
            f"{wanted.path} ended after {partial.size_bytes} of {wanted.size_bytes} bytes",
            where=origin,
            mend="pull again: what has come is kept",
        )
    return moved


@contextmanager
def disk_errors(place: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn errors of the disk into ours; a missing or an existing file is the caller's business.

    Args:
        place: File or folder being worked on, for messages.
        needed_bytes: How much was still to be written.

    Raises:
        MachineError: The disk is full, or cannot be read or written.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise _disk_full(place, needed_bytes) from error
        raise MachineError(
            f"cannot read or write: {error.strerror}",
            where=str(error.filename or place),
            mend="check the disk and its permissions (the store moves with VARIETAL_STORE)",
        ) from error


def _disk_full(place: Path, needed_bytes: int) -> MachineError:
    return MachineError(
        f"the disk is full: {needed_bytes} more bytes are needed",
        where=str(place),
        mend="make room on this disk (the store moves with VARIETAL_STORE) and repeat: what has come is kept",
    )
