"""Where objects are put: a DVC remote of any type, and DVC's cache on this machine. The registry only reads them.

An object appears under its name when it is whole: DVC's own file systems see to that on a remote, a rename in the
cache.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, Any, Protocol

from registry.errors import DeniedError, Error, MachineError, TransportError
from registry.remote import DvcCache, DvcRemote
from registry.store import link

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Cache", "Place", "Remote", "Shelf"]

_DENIED = re.compile("Auth|Credential|Permission|Forbidden|AccessDenied")
_DENIED_STATUS = frozenset({401, 403, 405, 407})


class Place(Protocol):
    """A place that takes objects."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def exists(self, oids: Iterable[str]) -> frozenset[str]:
        """Those of the objects that it has."""
        ...

    def put(self, path: Path, oid: str) -> None:
        """Take a file's bytes under a name.

        Raises:
            DeniedError: It takes nothing from us.
            TransportError: It does not answer as it should.
            MachineError: The disk is full.
        """
        ...


class Shelf(Protocol):
    """A place whose objects are files on this machine."""

    def path(self, oid: str) -> Path:
        """Where an object lies, or would lie."""
        ...


class Remote(DvcRemote):
    """A DVC remote that is written to."""

    def put(self, path: Path, oid: str) -> None:
        """Upload a file as an object.

        Raises:
            DeniedError: The remote does not let us write.
            TransportError: The remote does not answer as it should.
            MachineError: The disk of the remote is full.
        """
        from dvc_objects.fs.local import LocalFileSystem  # noqa: PLC0415 - DVC is loaded where it is needed

        database: Any = self._connect()
        try:
            database.add(str(path), LocalFileSystem(), oid, check_exists=False)
        except Error:
            raise
        except Exception as error:  # each storage library has errors of its own, without a common root
            raise _narrow(error, f"{self.name}: {oid}") from error


class Cache(DvcCache):
    """DVC's cache, written to."""

    def path(self, oid: str) -> Path:
        """Where an object lies, or would lie."""
        return self._path(oid)

    def put(self, path: Path, oid: str) -> None:
        """Link or copy a file into the cache.

        Raises:
            MachineError: The disk is full.
            TransportError: The cache cannot be written.
        """
        target = self._path(oid)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            link(path, part)
            part.chmod(0o444)
            part.replace(target)
        except OSError as error:
            raise _narrow(error, f"{self.name}: {oid}") from error


def _narrow(error: Exception, where: str) -> Error:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = " ".join(str(cause).split())[:200] or type(cause).__name__
    reason = re.sub(r"\?[^\s'\"]+", "?...", re.sub(r"://[^/@\s]+@", "://", reason))
    if isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}:
        return MachineError("the disk is full", where=where, mend="make room, then publish again: what came is kept")
    names = {type(error).__name__, type(cause).__name__}
    if getattr(cause, "status", 0) in _DENIED_STATUS or any(map(_DENIED.search, names)):
        return DeniedError(
            f"writing is not allowed: {reason}", where=where, mend="give the publishing process the right to write"
        )
    return TransportError(f"writing failed: {reason}", where=where, mend="check the network, then publish again")
