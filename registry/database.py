"""The SQLite file beneath the index: its tables, how it is opened, and how a damaged one is thrown away.

SQLite finds damage to its own structures only. So each record carries its digest and a seal over its columns, which are
compared with what is there.
"""

from __future__ import annotations

import fcntl
import json
import re
import sqlite3
import zlib
from contextlib import closing
from typing import TYPE_CHECKING

from registry.canonical import MAX_BYTES
from registry.digest import Digest, digest_bytes
from registry.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "DamagedError",
    "calls_for_another",
    "check_seals",
    "make_again",
    "open_database",
    "read_digest",
    "read_tips",
    "seal",
    "unpack",
    "unusable",
]

_DIGEST_BYTES = 32
_OBJECT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LAYOUT = 2  # of the tables below; another number means: make the file again
_WAIT_S = 60.0
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_MOVED = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY_DBMOVED})  # another process threw the file away
_NO_FILE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})

_TEXTS = (
    *(("files", "path"), ("tensors", "name"), ("blobs", "blob"), ("blobs", "problem"), ("commits", "commit_id")),
    *(("commits", "path"), ("unreadable", "path"), ("work_tree", "path"), ("work_tree", "stamp"), ("state", "value")),
    ("work_tree", "problem"),
)

_TABLES = f"""
create table state (key text primary key, value text not null) without rowid;
create table records (
    id integer primary key,
    digest blob not null unique,
    variant text not null,
    stage text not null,
    action blob not null,
    artifact blob not null,
    weights blob,
    listing blob not null,
    seal blob not null,
    body blob not null
);
create index records_by_action on records (action);
create index records_by_artifact on records (artifact);
create index records_by_weights on records (weights);
create table inputs (digest blob not null, record integer not null, primary key (digest, record)) without rowid;
create table files (
    digest blob not null, artifact blob not null, path text not null, primary key (digest, artifact, path)
) without rowid;
create table tensors (
    digest blob not null, artifact blob not null, name text not null, primary key (digest, artifact, name)
) without rowid;
create table listings (artifact blob primary key) without rowid;
create table blobs (blob text primary key, record integer, problem text not null) without rowid;
create table commits (
    record integer not null, commit_id text not null, path text not null, primary key (record, commit_id, path)
) without rowid;
create table unreadable (blob text not null, path text not null, primary key (blob, path)) without rowid;
create table work_tree (
    path text primary key, stamp text not null, record integer, problem text not null
) without rowid;
create index work_tree_by_record on work_tree (record);
pragma user_version = {_LAYOUT};
"""


class DamagedError(sqlite3.DatabaseError):
    """The file is a database with our tables, but what is in them cannot be."""


def seal(*columns: object) -> bytes:
    """What the columns of a record, less its body, are checked by; equal for equal values of equal types."""
    return bytes.fromhex(digest_bytes(repr(columns).encode()).hex)


def check_seals(database: sqlite3.Connection) -> None:
    """Compare every record's columns with their seal.

    Raises:
        DamagedError: They differ.
    """
    rows = database.execute("select digest, variant, stage, action, artifact, weights, listing, seal from records")
    if any(seal(*columns) != sealed for *columns, sealed in rows):
        raise DamagedError("the columns of a record have changed")


def unpack(body: object, digest: object) -> bytes:
    """The bytes of a record, of at most 64 MiB.

    Args:
        body: The column of that name: the bytes, compressed.
        digest: The column of that name.

    Raises:
        DamagedError: They do not belong together.
    """
    try:
        data = zlib.decompressobj().decompress(body, MAX_BYTES + 1) if isinstance(body, bytes) else b""
    except zlib.error as error:
        raise DamagedError("a record cannot be decompressed") from error
    if digest_bytes(data) != read_digest(digest):
        raise DamagedError("the bytes of a record have changed")
    return data


def read_digest(value: object) -> Digest:
    """A digest as a column has it.

    Raises:
        DamagedError: It is none.
    """
    if not isinstance(value, bytes) or len(value) != _DIGEST_BYTES:
        raise DamagedError("a digest is none")
    return Digest(value.hex())


def read_tips(text: str) -> list[str]:
    """Object ids that the history was read up to, as the state has them; empty text for none.

    Raises:
        DamagedError: They are none.
    """
    try:
        tips = json.loads(text or "[]")
    except (ValueError, RecursionError) as error:
        raise DamagedError("the state is no JSON") from error
    if not isinstance(tips, list) or not all(isinstance(tip, str) and _OBJECT.fullmatch(tip) for tip in tips):
        raise DamagedError("the state names no objects of git")
    return tips


def open_database(path: Path | None) -> sqlite3.Connection:
    """A database with our tables in it; ``None``: in memory."""
    if path is None:
        return _connect(":memory:")
    try:
        return _connect(str(path))
    except sqlite3.DatabaseError as error:
        if calls_for_another(error):
            return make_again(path)
        if _code(error) in _NO_FILE:
            return _connect(":memory:")
        raise unusable(error, path) from error


def _connect(name: str) -> sqlite3.Connection:
    """Open, and make the tables where they are missing or of another layout.

    Raises:
        sqlite3.DatabaseError: The file is no database, is damaged, or cannot be written.
    """
    database = sqlite3.connect(name, timeout=_WAIT_S, isolation_level=None)
    database.text_factory = _read_text
    try:
        database.execute("pragma synchronous = normal")
        if _layout(database) != _LAYOUT:
            database.execute("begin immediate")
            if _layout(database) != _LAYOUT:  # no other process made them meanwhile
                _drop_all(database)
                for statement in _TABLES.split(";\n"):
                    database.execute(statement)
            database.execute("commit")
    except BaseException:
        database.close()
        raise
    return database


def _read_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DamagedError("a text is none") from error


def _layout(database: sqlite3.Connection) -> int:
    return int(database.execute("pragma user_version").fetchone()[0])


def _drop_all(database: sqlite3.Connection) -> None:
    for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
        database.execute(f'drop table "{table}"')


def make_again(path: Path) -> sqlite3.Connection:
    """Throw a damaged file away, unless another process did so before us, and open the new one.

    Raises:
        MachineError: The new one cannot be used either.
    """
    with path.with_suffix(".lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_damaged(path):
            for name in (path.name, f"{path.name}-journal", f"{path.name}-wal", f"{path.name}-shm"):
                path.with_name(name).unlink(missing_ok=True)
        try:
            return _connect(str(path))
        except sqlite3.DatabaseError as error:
            raise unusable(error, path) from error


def _is_damaged(path: Path) -> bool:
    try:
        with closing(_connect(str(path))) as database:
            if database.execute("pragma quick_check").fetchone()[0] != "ok":
                return True
            _check_content(database)
    except sqlite3.DatabaseError as error:
        return isinstance(error, DamagedError) or _code(error) in _DAMAGE
    return False


def _check_content(database: sqlite3.Connection) -> None:
    """Read everything that an answer is made of.

    Raises:
        DamagedError: Something in it cannot be.
    """
    check_seals(database)
    for body, digest in database.execute("select body, digest from records"):
        unpack(body, digest)
    for table in ("inputs", "files", "tensors"):
        for (digest,) in database.execute(f"select digest from {table}"):  # noqa: S608 - names of our own tables
            read_digest(digest)
    for table in ("files", "tensors"):
        for (artifact,) in database.execute(f"select artifact from {table}"):  # noqa: S608 - as above
            read_digest(artifact)
    for table, column in _TEXTS:
        database.execute(f"select {column} from {table}").fetchall()  # noqa: S608 - as above
    for (value,) in database.execute("select value from state where key = 'tips'"):
        read_tips(str(value))


def _code(error: sqlite3.DatabaseError) -> int:
    """SQLite's primary result code."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def calls_for_another(error: sqlite3.DatabaseError) -> bool:
    """Whether an error means that the file is damaged, no database, or gone, rather than in use or out of reach."""
    if isinstance(error, DamagedError):
        return True
    return _code(error) in _DAMAGE | _MOVED or getattr(error, "sqlite_errorcode", 0) in _MOVED


def unusable(error: sqlite3.DatabaseError, path: Path) -> MachineError:
    """The error for all that making the file again would not mend."""
    return MachineError(
        f"the index cannot be used: {error}",
        where=str(path),
        mend="see to the disk and to other processes; the file can be removed at any time",
    )
