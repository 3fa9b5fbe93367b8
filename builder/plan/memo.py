"""The memo: an SQLite file in ``.varietal/`` with hashes of files, and variants that were seen to need no build.

It is derived and may be removed at any time; one that is damaged or cannot be written is done without. Nothing in it is
believed but for files that still have the size, time and inode under which it was written down, which nobody can know
who does not have this very disk.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["Hashes", "Memo", "Seen"]

_LAYOUT = 1  # of the tables below; another number means: make the file again
_WAIT_S = 5.0
_TABLES = f"""
create table files (
    path text primary key, size integer not null, changed integer not null, inode integer not null,
    md5 text not null, sha256 text not null
) without rowid;
create table variants (name text primary key, signature text not null, body text not null) without rowid;
pragma user_version = {_LAYOUT};
"""


class Hashes(NamedTuple):
    """What is known of a file's content.

    Attributes:
        size: Its size in bytes.
        changed: When it was last changed, ns.
        inode: Its number on the disk.
        md5: DVC's name of the content; empty where it was not asked for.
        sha256: Hexadecimal digits; empty where they were not asked for.
    """

    size: int
    changed: int
    inode: int
    md5: str
    sha256: str


class Seen(NamedTuple):
    """A variant that was seen to need no build: under which signature, and what was found, as JSON."""

    signature: str
    body: str


class Memo:
    """Reads and writes the file at :attr:`path`; every failure of the file means that nothing is known."""

    def __init__(self, root: Path) -> None:
        """Name the file of the repository at ``root``."""
        self._path = root / ".varietal" / "plan.sqlite"

    def files(self) -> dict[str, Hashes]:
        """What is known of files, by path from the root."""
        rows = self._read("select path, size, changed, inode, md5, sha256 from files")
        return {path: Hashes(*facts) for path, *facts in rows}

    def variants(self) -> dict[str, Seen]:
        """Variants that needed no build, by name."""
        return {name: Seen(*facts) for name, *facts in self._read("select name, signature, body from variants")}

    def keep_files(self, files: Mapping[str, Hashes]) -> None:
        """Write down hashes of files."""
        rows = [(path, *facts) for path, facts in files.items()]
        self._write("insert or replace into files values (?, ?, ?, ?, ?, ?)", rows)

    def keep_variants(self, variants: Mapping[str, Seen], gone: Iterable[str] = ()) -> None:
        """Write down variants that need no build, and forget those that are gone."""
        self._write("delete from variants where name = ?", [(name,) for name in gone])
        self._write(
            "insert or replace into variants values (?, ?, ?)", [(name, *facts) for name, facts in variants.items()]
        )

    def _read(self, query: str) -> list[tuple[Any, ...]]:
        if not self._path.is_file():
            return []
        try:
            with closing(self._open()) as database:
                return database.execute(query).fetchall()
        except (sqlite3.Error, OSError, UnicodeError):
            return []

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        if not rows:
            return
        try:
            self._path.parent.mkdir(exist_ok=True)
            self._write_once(statement, rows)
        except sqlite3.OperationalError:  # another plan is writing, the disk is full, or it may not be written
            return
        except (sqlite3.DatabaseError, UnicodeError):  # damaged: begin anew
            with suppress(sqlite3.Error, OSError, UnicodeError):
                self._path.unlink(missing_ok=True)
                self._write_once(statement, rows)
        except OSError:
            return

    def _write_once(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        with closing(self._open()) as database, database:
            database.executemany(statement, rows)

    def _open(self) -> sqlite3.Connection:
        """Open it, with our tables in it.

        Raises:
            sqlite3.Error: It is no database, or cannot be had.
        """
        database = sqlite3.connect(self._path, timeout=_WAIT_S)
        try:
            database.execute("pragma synchronous = off")  # losing it loses nothing
            if database.execute("pragma user_version").fetchone()[0] != _LAYOUT:
                self._make(database)
        except BaseException:
            database.close()
            raise
        return database

    def _make(self, database: sqlite3.Connection) -> None:
        database.isolation_level = None
        database.execute("begin exclusive")
        if database.execute("pragma user_version").fetchone()[0] != _LAYOUT:  # no other process made them meanwhile
            for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
                database.execute(f'drop table "{table}"')
            for statement in _TABLES.strip().split(";\n"):
                database.execute(statement)
        database.execute("commit")
        database.isolation_level = "DEFERRED"
