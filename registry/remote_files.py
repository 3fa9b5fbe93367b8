"""Small named files on a DVC remote of any type, beside its objects."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import InvalidError, MachineError, NotFoundError
from registry.remote import Database, connect, narrowed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RemoteFiles"]

_OBJECTS = "/files/md5"


class RemoteFiles:
    """Files by path from the root of a remote."""

    def __init__(self, root: Path, remote: str = "") -> None:
        """Use a remote of the repository at ``root``: the one of that name, else the default one."""
        self._root = root
        self._remote = remote
        self._database: Database | None = None

    @property
    def name(self) -> str:
        """``remote 'storage'``, or ``the default remote`` while its name is not known."""
        return f"remote {self._remote!r}" if self._remote else "the default remote"

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """A file; ``None`` where there is none.

        Raises:
            InvalidError: It is longer than it may be, or in a remote that is a folder no plain file.
            DeniedError: The remote does not let us read.
            TransportError: The remote does not answer as it should.
        """
        database, place = self._place(path)
        try:
            with narrowed(path, self.name):
                data = _read(database, place, limit_bytes + 1)
        except NotFoundError:
            return None
        if data is None:
            raise InvalidError(f"{path} is no plain file", where=self.name, mend="find out who put it there, remove it")
        if len(data) > limit_bytes:
            raise InvalidError(
                f"{path} has more than {limit_bytes} bytes", where=self.name, mend="find out who wrote it"
            )
        return data

    def write(self, path: str, data: bytes) -> None:
        """Write a file, whole or not at all where the remote can do that: a folder and the object stores can.

        Raises:
            DeniedError: The remote does not let us write.
            TransportError: The remote does not answer as it should.
            MachineError: This type of remote cannot be written to.
        """
        database, place = self._place(path)
        with tempfile.TemporaryDirectory(prefix="varietal-") as folder:
            file = Path(folder) / "file"
            file.write_bytes(data)
            self._attempt(lambda: database.fs.makedirs(database.fs.parent(place), exist_ok=True), path)
            self._attempt(lambda: database.fs.put_file(str(file), place), path)

    def may_have(self, folder: str) -> bool:
        """Whether anything may lie in a folder; always where the remote has files and no folders, as over HTTP.

        Raises:
            DeniedError: The remote does not let us look.
            TransportError: The remote does not answer as it should.
        """
        database, place = self._place(folder)
        if database.fs.protocol in {"http", "https"}:
            return True
        try:
            with narrowed(folder, self.name):
                return database.fs.exists(place)
        except NotFoundError:
            return False

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with all that is in it; nothing where there is none, or where there are no folders.

        Raises:
            DeniedError: The remote does not let us remove.
            TransportError: The remote does not answer as it should.
        """
        database, place = self._place(folder)
        if database.fs.protocol in {"http", "https"}:
            return
        try:
            with narrowed(folder, self.name):
                if database.fs.exists(place):
                    database.fs.remove(place, recursive=True)
        except NotFoundError:
            return

    def _attempt(self, act: Callable[[], object], path: str) -> None:
        try:
            with narrowed(path, self.name):
                act()
        except NotFoundError as error:
            raise MachineError(
                f"{path} cannot be written: {error.what}", where=self.name, mend="name a remote that takes files"
            ) from error

    def _place(self, path: str) -> tuple[Database, str]:
        """Where a file lies: beside the folder in which DVC keeps its objects."""
        if self._database is None:
            self._database, self._remote = connect(self._root, self._remote)
        database = self._database
        if not database.path.rstrip("/").endswith(_OBJECTS):
            raise InvalidError(
                f"objects lie under {database.path}, not under {_OBJECTS}",
                where=self.name,
                mend="descriptors need a remote as DVC 3 lays it out",
            )
        return database, database.fs.join(database.path.rstrip("/").removesuffix(_OBJECTS), *path.split("/"))


def _read(database: Database, place: str, limit_bytes: int) -> bytes | None:
    """The beginning of a file; ``None`` where a folder has something else there, for a pipe would never end."""
    if database.fs.protocol != "local":
        with database.fs.open(place, "rb") as stream:
            return stream.read(limit_bytes)
    descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(limit_bytes)
    finally:
        os.close(descriptor)
