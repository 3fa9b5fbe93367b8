"""Where bytes come from: DVC's cache on this machine, and DVC's remotes of any type.

Objects are asked for as DVC names them: the md5 of a file, or ``<md5>.dir`` for the listing of a folder. Nothing that a
source says is believed; who reads checks every byte against a sha256. Every error of a library beneath becomes one of
ours here, those too that come up in the middle of a stream.
"""

from __future__ import annotations

import configparser
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from registry.errors import DeniedError, Error, InvalidError, MachineError, NotFoundError, TransportError
from registry.http_body import open_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from registry.http_body import HttpFileSystem
    from registry.store import Readable

__all__ = ["Database", "DvcCache", "DvcRemote", "Source", "connect", "narrowed", "read_dvc_config"]

_OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
_QUERIES = 8  # objects asked about at once
_SYSTEM_CONFIG = Path("/etc/xdg/dvc/config")
_USER_CONFIG = Path("~/.config/dvc/config")
_DENIED = frozenset({401, 402, 403, 407})  # HTTP
_MISSING = frozenset({404, 410})
_DENIED_NAMES = re.compile("Auth|Credential")  # how the cloud libraries call such errors


class Source(Protocol):
    """A place that has objects."""

    @property
    def name(self) -> str:
        """What people call it, such as ``remote 'storage'``; no secrets in it."""
        ...

    def open(self, oid: str, offset: int) -> AbstractContextManager[Readable]:
        """Stream an object from an offset in bytes to its end.

        Raises:
            NotFoundError: It has no such object.
            DeniedError: It does not let us read.
            TransportError: It does not answer as it should, now or during a ``read``.
            InvalidError: It is configured wrongly.
            MachineError: A program that it needs is missing.
        """
        ...

    def exists(self, oids: Iterable[str]) -> frozenset[str]:
        """Those of the objects that it has.

        Raises:
            DeniedError: It does not let us look.
            TransportError: It does not answer as it should.
            InvalidError: It is configured wrongly.
            MachineError: A program that it needs is missing.
        """
        ...


class DvcCache:
    """DVC's cache of one repository, read without DVC.

    Attributes:
        name: ``the DVC cache``.
        folder: The cache, as ``cache.dir`` of DVC's configuration says.
    """

    def __init__(self, root: Path) -> None:
        """Find the cache of the repository at ``root``; it may not be there yet.

        Raises:
            InvalidError: DVC's configuration cannot be read.
        """
        self.name = "the DVC cache"
        self.folder = _cache_folder(root)

    @contextmanager
    def open(self, oid: str, offset: int) -> Iterator[Readable]:
        """Stream an object from an offset in bytes to its end.

        Raises:
            NotFoundError: The cache has no such object.
            DeniedError: The file may not be read.
            TransportError: The disk does not answer as it should, now or during a ``read``.
        """
        with _opened(self._open(oid, offset), oid, self.name) as stream:
            yield stream

    def exists(self, oids: Iterable[str]) -> frozenset[str]:
        """Those of the objects that are there."""
        return frozenset(oid for oid in oids if self._path(oid).is_file())

    @contextmanager
    def _open(self, oid: str, offset: int) -> Iterator[Readable]:
        with self._path(oid).open("rb", buffering=0) as stream:
            stream.seek(offset)
            yield stream

    def _path(self, oid: str) -> Path:
        _check_object(oid, self.name)
        return self.folder / "files" / "md5" / oid[:2] / oid[2:]


class DvcRemote:
    """A DVC remote of any type, read through DVC's own object database.

    The first use loads DVC and reads its configuration. Over HTTP the bytes are asked for uncompressed and streamed; a
    connection that brings nothing for ``read_timeout`` seconds (60, set by ``dvc remote modify``) is given up.
    """

    def __init__(self, root: Path, remote: str = "") -> None:
        """Use a remote of the repository at ``root``: the one of that name, else the default one."""
        self._root = root
        self._remote = remote
        self._lock = threading.Lock()
        self._connected: Database | None = None

    @property
    def name(self) -> str:
        """``remote 'storage'``, or ``the default remote`` while its name is not known."""
        return f"remote {self._remote!r}" if self._remote else "the default remote"

    @contextmanager
    def open(self, oid: str, offset: int) -> Iterator[Readable]:
        """Stream an object from an offset in bytes to its end.

        Raises:
            NotFoundError: The remote has no such object, DVC is not initialised, or there is no such remote.
            DeniedError: The remote does not let us read.
            TransportError: The remote does not answer as it should, now or during a ``read``.
            InvalidError: The remote is configured wrongly.
            MachineError: DVC, or its support for this type of remote, is not installed.
        """
        database = self._connect()
        _check_object(oid, self.name)
        with _opened(_stream(database.fs, database.oid_to_path(oid), offset), oid, self.name) as stream:
            yield stream

    def exists(self, oids: Iterable[str]) -> frozenset[str]:
        """Those of the objects that the remote has; each is asked for by name.

        Raises:
            NotFoundError: DVC is not initialised, or there is no such remote.
            DeniedError: The remote does not let us look.
            TransportError: The remote does not answer as it should.
            InvalidError: The remote is configured wrongly.
            MachineError: DVC, or its support for this type of remote, is not installed.
        """
        database = self._connect()
        wanted = sorted(set(oids))
        for oid in wanted:
            _check_object(oid, self.name)
        with ThreadPoolExecutor(_QUERIES) as pool:
            found = tuple(pool.map(lambda oid: self._has(database, oid), wanted))
        return frozenset(oid for oid, there in zip(wanted, found, strict=True) if there)

    def _has(self, database: Database, oid: str) -> bool:
        try:
            with narrowed(oid, self.name):
                database.fs.info(database.oid_to_path(oid))
        except NotFoundError:
            return False
        return True

    def _connect(self) -> Database:
        with self._lock:
            if self._connected is None:
                self._connected, self._remote = connect(self._root, self._remote)
            return self._connected


class _FileSystem(Protocol):
    """What is used of DVC's file systems."""

    protocol: str
    fs: HttpFileSystem

    def open(self, path: str, mode: str, /) -> AbstractContextManager[BinaryIO]: ...

    def info(self, path: str, /) -> object: ...

    def put_file(self, from_file: str, to_info: str, /) -> object: ...

    def join(self, *parts: str) -> str: ...

    def parent(self, path: str, /) -> str: ...

    def makedirs(self, path: str, /, *, exist_ok: bool) -> None: ...

    def exists(self, path: str, /) -> bool: ...

    def remove(self, path: str, /, *, recursive: bool) -> None: ...


class Database(Protocol):
    """What is used of DVC's object databases."""

    fs: _FileSystem
    path: str

    def oid_to_path(self, oid: str, /) -> str:
        """Where an object lies."""
        ...


class _Cloud(Protocol):
    def get_remote_odb(self, name: str, command: str, /) -> Database: ...


class _Repository(Protocol):
    """What is used of DVC's repositories."""

    config: Mapping[str, Mapping[str, object]]
    cloud: _Cloud

    def close(self) -> None: ...


class _Narrowed:
    """A stream whose errors are ours."""

    __slots__ = ("_name", "_oid", "_stream")

    def __init__(self, stream: Readable, oid: str, name: str) -> None:
        self._stream = stream
        self._oid = oid
        self._name = name

    def read(self, size: int, /) -> bytes:
        with narrowed(self._oid, self._name):
            return self._stream.read(size)


@contextmanager
def _opened(opening: AbstractContextManager[Readable], oid: str, name: str) -> Iterator[Readable]:
    """Enter, read and leave a stream with its errors narrowed; those of the block in between are left alone."""
    with ExitStack() as stack:
        with narrowed(oid, name):
            stream = stack.enter_context(opening)
        try:
            yield _Narrowed(stream, oid, name)
        finally:
            with narrowed(oid, name):
                stack.close()


@contextmanager
def _stream(filesystem: _FileSystem, path: str, offset: int) -> Iterator[Readable]:
    if filesystem.protocol in {"http", "https"}:
        with closing(open_body(filesystem.fs, path, offset)) as body:
            yield body
    else:
        with filesystem.open(path, "rb") as stream:
            stream.seek(offset)
            yield stream


def connect(root: Path, remote: str) -> tuple[Database, str]:
    """DVC's object database for a remote, and the remote's name; the default remote where ``remote`` is empty.

    Raises:
        NotFoundError: DVC is not initialised, or there is no such remote.
        DeniedError: The remote refuses the credentials.
        InvalidError: The remote is configured wrongly.
        MachineError: DVC, or its support for this type of remote, is not installed.
    """
    with closing(_open_repository(root)) as repository:
        name = remote or str(repository.config["core"].get("remote", ""))
        names = sorted(repository.config["remote"])
        _check_remote(root, name, names)
        return _open_database(repository, name), name


def _open_repository(root: Path) -> _Repository:
    try:
        from dvc.config import ConfigError
        from dvc.exceptions import NotDvcRepoError
        from dvc.repo import Repo
    except ImportError as error:
        raise MachineError(
            "DVC is not installed, and a DVC remote is read through it",
            where=str(root),
            mend="pip install 'varietal[pull]'",
        ) from error
    try:
        repository: _Repository = Repo(str(root))
    except NotDvcRepoError as error:
        raise NotFoundError(
            "DVC is not initialised here", where=str(root), mend="run `dvc init`, then `dvc remote add -d NAME URL`"
        ) from error
    except ConfigError as error:
        raise _wrong_config(error, str(root / ".dvc")) from error
    return repository


def _check_remote(root: Path, name: str, names: list[str]) -> None:
    where = str(root / ".dvc/config")
    known = ", ".join(names)
    if not name:
        command = f"`dvc remote default NAME` (of {known})" if names else "`dvc remote add -d NAME URL`"
        raise NotFoundError("DVC has no default remote", where=where, mend=f"run {command}")
    if name not in names:
        choice = f"use one of {known}, or add it" if names else "add it"
        raise NotFoundError(f"there is no remote {name!r}", where=where, mend=f"{choice}: `dvc remote add {name} URL`")


def _open_database(repository: _Repository, name: str) -> Database:
    from dvc.config import ConfigError
    from dvc.fs import AuthError, RemoteMissingDepsError
    from dvc.fs import ConfigError as FilesystemConfigError

    try:
        return repository.cloud.get_remote_odb(name, "pull")
    except RemoteMissingDepsError as error:
        raise MachineError(
            f"DVC cannot read {error.protocol} remotes here: {', '.join(error.missing_deps)} not installed",
            where=f"remote {name!r}",
            mend=f"pip install 'dvc[{error.protocol}]'",
        ) from error
    except AuthError as error:
        raise DeniedError(str(error), where=f"remote {name!r}", mend=_credentials(f"remote {name!r}")) from error
    except (ConfigError, FilesystemConfigError) as error:
        raise _wrong_config(error, f"remote {name!r}") from error


def _wrong_config(error: Exception, where: str) -> InvalidError:
    return InvalidError(
        f"DVC's configuration is wrong: {_reason(error)}",
        where=where,
        mend="correct it with `dvc remote modify` or `dvc config`",
    )


@contextmanager
def narrowed(oid: str, name: str) -> Iterator[None]:
    """Turn every error of the libraries beneath a source into one of ours.

    Raises:
        NotFoundError: There is nothing of that name.
        DeniedError: It may not be read or written.
        TransportError: Anything else.
    """
    try:
        yield
    except Error:
        raise
    except Exception as error:  # each storage library has errors of its own, without a common root
        raise _narrow(error, oid, name) from error


def _narrow(error: Exception, oid: str, name: str) -> Error:
    """What a foreign error means; its first cause knows best, since libraries say "not found" of a lost connection."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    status = getattr(cause, "status", 0)
    where = f"{name}: {oid}"
    denied_name = _DENIED_NAMES.search(type(cause).__name__) or _DENIED_NAMES.search(type(error).__name__)
    if status in _DENIED or isinstance(error, PermissionError) or denied_name:
        return DeniedError(f"reading is not allowed: {_reason(cause)}", where=where, mend=_credentials(name))
    lost = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
    if status in _MISSING or (isinstance(error, FileNotFoundError) and not status and not lost):
        return NotFoundError("there is no such object", where=where, mend="run `dvc push` where it was built")
    return TransportError(
        f"reading failed: {_reason(cause)}", where=where, mend="check the network and the remote, then pull again"
    )


def _reason(error: BaseException) -> str:
    """One line on an error, without the query of a signed address."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"\?[^\s'\"]+", "?...", re.sub(r"://[^/@\s]+@", "://", text))


def _credentials(name: str) -> str:
    return f"check the credentials of {name}: `dvc remote modify --local`, or your cloud's login"


def _check_object(oid: str, name: str) -> None:
    if _OBJECT.fullmatch(oid) is None:
        raise InvalidError(
            f"{oid!r} is no name of an object",
            where=name,
            mend="restore dvc.lock from git; objects are named by 32 hexadecimal digits",
        )


def _cache_folder(root: Path) -> Path:
    """``cache.dir``; the nearer of DVC's configuration files wins, relative paths start at the file's folder."""
    folder = root / ".dvc" / "cache"
    for path in (_SYSTEM_CONFIG, _USER_CONFIG.expanduser(), root / ".dvc/config", root / ".dvc/config.local"):
        if value := read_dvc_config(path).get("cache", "dir", fallback="").strip("'\""):
            folder = path.parent / Path(value).expanduser()
    return folder


def read_dvc_config(path: Path) -> configparser.ConfigParser:
    """One of DVC's configuration files; empty where there is none.

    Raises:
        InvalidError: It is no such file, or cannot be read.
    """
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise InvalidError(
            f"not a configuration file of DVC: {' '.join(str(error).split())}",
            where=str(path),
            mend="correct it, or write it with `dvc config`",
        ) from error
    return parser
