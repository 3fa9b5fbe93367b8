"""The index: an SQLite file derived from git and the work tree. It is never the truth, and can be removed at any time.

Every record that git ever had is in it, with each commit that brought it, and every record in the work tree. A refresh
reads what is new: commits that no refresh has seen, and files whose size, time or inode changed. An index that is
damaged, in its structure or in its records, or of another layout, is made again. Two processes may use it at once:
SQLite's locks keep them apart.

Tensor tables are not in git. They are taken up with :meth:`Index.add_listing`, once for each artifact.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from registry.artifact import Artifact
from registry.canonical import MAX_BYTES
from registry.database import (
    calls_for_another,
    check_seals,
    make_again,
    open_database,
    read_digest,
    read_tips,
    seal,
    unpack,
    unusable,
)
from registry.digest import Digest, digest_bytes
from registry.errors import DigestMismatchError, InvalidError
from registry.record import BASES, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from registry.git_output import Change
    from registry.history import Repository

__all__ = ["Holder", "Index", "Refreshed", "Sighting"]

_Result = TypeVar("_Result")

_BATCH = 1000  # blobs read by one git process

_HISTORY = ("models/*/records/*.json", "bases/records/*.json")
_WORK_TREE = ("artifacts", "records")  # folders of a variant that hold records


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """A record, and a place where it was seen.

    Attributes:
        record: The record.
        commit: Commit that brought it; empty for the work tree.
        path: File, from the root of the repository.
    """

    record: Record
    commit: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """A file or a tensor, the artifact that holds it, and what it is called there."""

    digest: Digest
    artifact: Digest
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refreshed:
    """What is in the index after a refresh.

    Attributes:
        records: Different records.
        new: Those of them that this refresh brought.
        artifacts: Different artifacts.
        listed: Artifacts whose tensor tables are in.
        problems: Files that are no records, with the reason, by path.
    """

    records: int
    new: int
    artifacts: int
    listed: int
    problems: tuple[tuple[str, str], ...]


class Index:
    """Answers by digest. Open it with :meth:`open`."""

    def __init__(self, repository: Repository, path: Path, database: sqlite3.Connection) -> None:
        """Wrap an open database."""
        self._repository = repository
        self._path = path
        self._database = database

    @classmethod
    def open(cls, repository: Repository) -> Index:
        """The index of a repository, brought up to date; in memory where its file cannot be written.

        Raises:
            InvalidError: git cannot read the history.
            MachineError: The disk is full, or another process holds the index for more than a minute.
        """
        folder = repository.root / ".varietal"
        path = folder / "index.sqlite"
        try:
            folder.mkdir(exist_ok=True)
            database = open_database(path)
        except OSError:
            database = open_database(None)
        index = cls(repository, path, database)
        index.refresh()
        return index

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> Self:
        """Use it in a ``with``."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the file."""
        self.close()

    # Bringing it up to date

    def refresh(self) -> Refreshed:
        """Take up what is new in git and in the work tree.

        Raises:
            InvalidError: git cannot read the history.
            MachineError: The disk is full, or another process holds the index for more than a minute.
        """
        return self._guarded(self._refresh)

    def _refresh(self) -> Refreshed:
        check_seals(self._database)
        tips, shallow = self._repository.tips(), self._repository.is_shallow()
        stamps = dict(self._stamps())
        before = self._count("records")
        if not self._is_current(tips, shallow, stamps):
            with self._writing():
                self._take_history(tips, shallow)
                self._take_work_tree(stamps)
        return Refreshed(
            records=self._count("records"),
            new=self._count("records") - before,
            artifacts=self._one("select count(distinct artifact) from records"),
            listed=self._count("listings"),
            problems=self._problems(),
        )

    def _is_current(self, tips: Sequence[str], shallow: str, stamps: dict[str, str]) -> bool:
        known = dict(self._rows("select path, stamp from work_tree"))
        return self._state("tips") == json.dumps(tips) and self._state("shallow") == shallow and known == stamps

    def _take_history(self, tips: Sequence[str], shallow: str) -> None:
        if self._state("tips") == json.dumps(tips) and self._state("shallow") == shallow:
            return
        seen = read_tips(self._state("tips"))
        if self._state("shallow") != shallow or not self._repository.reaches(seen):
            self._database.execute("delete from commits")
            self._database.execute("delete from unreadable")
            seen = []
        changes = [one for one in self._repository.changed_files(_HISTORY, seen=seen) if _is_text(one.path)]
        self._take_blobs(changes)
        ids = dict(self._rows("select blob, record from blobs"))
        self._database.executemany(
            "insert or ignore into commits values (?, ?, ?)",
            ((ids[one.blob], one.commit, one.path) for one in changes if ids[one.blob] is not None),
        )
        self._database.executemany(
            "insert or ignore into unreadable values (?, ?)",
            ((one.blob, one.path) for one in changes if ids[one.blob] is None),
        )
        self._set_state("tips", json.dumps(tips))
        self._set_state("shallow", shallow)

    def _take_blobs(self, changes: Iterable[Change]) -> None:
        known = {blob for (blob,) in self._rows("select blob from blobs")}
        new = {change.blob: change.path for change in changes if change.blob not in known}
        blobs = list(new)
        for start in range(0, len(blobs), _BATCH):
            batch = blobs[start : start + _BATCH]
            for blob, data in zip(batch, self._repository.read_blobs(batch), strict=True):
                record, problem = self._take_record(data, new[blob])
                self._database.execute("insert into blobs values (?, ?, ?)", (blob, record, problem))

    def _take_work_tree(self, stamps: dict[str, str]) -> None:
        known = dict(self._rows("select path, stamp from work_tree"))
        self._database.executemany("delete from work_tree where path = ?", ((path,) for path in known.keys() - stamps))
        for path, stamp in stamps.items():
            if known.get(path) != stamp:
                record, problem = self._take_record(_read(self._repository.root / path), path)
                self._database.execute(
                    "insert or replace into work_tree values (?, ?, ?, ?)", (path, stamp, record, problem)
                )

    def _stamps(self) -> Iterator[tuple[str, str]]:
        """Path, and a text that changes when the file does, of every record in the work tree."""
        root = self._repository.root
        if self._repository.bare:
            return
        variants = [f"models/{entry.name}" for entry in _entries(root, "models")]
        folders = [f"{variant}/{folder}" for variant in variants for folder in _WORK_TREE]
        for folder in (*folders, BASES, f"{BASES}/records"):
            for entry in _entries(root, folder):
                if not entry.name.endswith(".json"):
                    continue
                try:
                    facts = entry.stat()
                except OSError:
                    continue  # a build is replacing it, the next refresh sees it; or a link that leads nowhere
                name = f"{folder}/{entry.name}"
                if stat.S_ISREG(facts.st_mode) and facts.st_size <= MAX_BYTES and _is_text(name):
                    yield name, f"{facts.st_mtime_ns} {facts.st_size} {facts.st_ino}"

    def _take_record(self, data: bytes | None, path: str) -> tuple[int | None, str]:
        """Id of the record, or why it is none."""
        if data is None:
            return None, "it is gone, or larger than a record can be"
        digest = bytes.fromhex(digest_bytes(data).hex)
        known = self._rows("select id from records where digest = ?", digest)
        if known:
            return known[0][0], ""
        try:
            record = Record.from_bytes(data, where=path)
        except InvalidError as error:
            return None, error.what
        return self._insert(record, digest, data), ""

    def _insert(self, record: Record, digest: bytes, data: bytes) -> int | None:
        summary = record.artifact
        artifact = _key(summary.digest)
        weights = None if summary.weights_digest is None else _key(summary.weights_digest)
        columns = (
            *(digest, record.variant, record.stage, _key(record.action.digest)),
            *(artifact, weights, _key(summary.listing)),
        )
        cursor = self._database.execute(
            "insert into records (digest, variant, stage, action, artifact, weights, listing, seal, body)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*columns, seal(*columns), zlib.compress(data, 1)),
        )
        self._database.executemany(
            "insert or ignore into inputs values (?, ?)",
            ((_key(one.digest), cursor.lastrowid) for one in record.inputs),
        )
        self._database.executemany(
            "insert or ignore into files values (?, ?, ?)",
            ((_key(file.digest), artifact, file.path) for file in summary.files),
        )
        return cursor.lastrowid

    # Tensor tables

    def unlisted(self) -> tuple[Sighting, ...]:
        """One sighting or more of each artifact whose tensor table is not in yet."""
        return self._sightings("artifact not in (select artifact from listings) and weights is not null")

    def add_listing(self, record: Record, data: bytes) -> None:
        """Take up the tensor table of an artifact.

        Args:
            record: A record of the artifact.
            data: Its ``artifact.json``.

        Raises:
            DigestMismatchError: ``data`` is not what the record says.
            InvalidError: It breaks its schema.
        """
        got = digest_bytes(data)
        if got != record.artifact.listing:
            raise DigestMismatchError(
                f"artifact.json has {got}, the record says {record.artifact.listing}",
                where=record.ref,
                mend="fetch or build the artifact again",
            )
        listing = Artifact.from_bytes(data, where=f"artifact.json of {record.ref}")
        artifact = _key(record.artifact.digest)

        def add() -> None:
            with self._writing():
                self._database.executemany(
                    "insert or ignore into tensors values (?, ?, ?)",
                    ((_key(one.digest), artifact, one.name) for one in listing.tensors),
                )
                self._database.execute("insert or ignore into listings values (?)", (artifact,))

        self._guarded(add)

    # Questions

    def by_action(self, digest: Digest) -> tuple[Sighting, ...]:
        """Every sighting of a record of this action; the work tree first, then git."""
        return self._sightings("action = ?", _key(digest))

    def by_artifact(self, digest: Digest) -> tuple[Sighting, ...]:
        """Every sighting of a record of this artifact; the work tree first, then git."""
        return self._sightings("artifact = ?", _key(digest))

    def by_weights(self, digest: Digest) -> tuple[Sighting, ...]:
        """Every sighting of a record of an artifact with these weights."""
        return self._sightings("weights = ?", _key(digest))

    def by_input(self, digest: Digest) -> tuple[Sighting, ...]:
        """Every sighting of a record of a stage that read this artifact or data set."""
        return self._sightings("id in (select record from inputs where digest = ?)", _key(digest))

    def artifacts(self, prefix: str) -> tuple[Digest, ...]:
        """Artifacts whose digest starts with these hexadecimal digits."""
        return self._digests("select distinct artifact from records where artifact between ? and ?", *_range(prefix))

    def inputs(self, prefix: str) -> tuple[Digest, ...]:
        """Artifacts and data sets that some stage read, whose digest starts with these digits."""
        return self._digests("select distinct digest from inputs where digest between ? and ?", *_range(prefix))

    def weights(self, prefix: str) -> tuple[Digest, ...]:
        """Weights digests that start with these digits."""
        return self._digests("select distinct weights from records where weights between ? and ?", *_range(prefix))

    def actions(self, prefix: str) -> tuple[Digest, ...]:
        """Action digests that start with these digits."""
        return self._digests("select distinct action from records where action between ? and ?", *_range(prefix))

    def holders_of_file(self, prefix: str) -> tuple[Holder, ...]:
        """Artifacts that hold a file whose digest starts with these digits."""
        return self._holders("select digest, artifact, path from files where digest between ? and ?", prefix)

    def holders_of_tensor(self, prefix: str) -> tuple[Holder, ...]:
        """Artifacts that hold a tensor whose digest starts with these digits, of those whose table is in."""
        return self._holders("select digest, artifact, name from tensors where digest between ? and ?", prefix)

    # Beneath

    def _sightings(self, condition: str, *values: bytes) -> tuple[Sighting, ...]:
        return self._guarded(lambda: tuple(sorted(self._seen(condition, values), key=lambda one: one.commit != "")))

    def _seen(self, condition: str, values: tuple[bytes, ...]) -> Iterator[Sighting]:
        query = f"select id, body, digest from records where {condition} order by id desc"  # noqa: S608 - only texts above
        for record_id, body, digest in self._rows(query, *values):
            places = [("", path) for (path,) in self._rows("select path from work_tree where record = ?", record_id)]
            places += self._rows("select commit_id, path from commits where record = ?", record_id)
            if places:
                record = Record.from_bytes(unpack(body, digest), where=places[0][1])
                yield from (Sighting(record=record, commit=commit, path=path) for commit, path in places)

    def _digests(self, query: str, *values: bytes) -> tuple[Digest, ...]:
        return self._guarded(lambda: tuple(read_digest(found) for (found,) in self._rows(query, *values)))

    def _holders(self, query: str, prefix: str) -> tuple[Holder, ...]:
        return self._guarded(
            lambda: tuple(
                Holder(digest=read_digest(digest), artifact=read_digest(artifact), name=name)
                for digest, artifact, name in self._rows(query, *_range(prefix))
            )
        )

    def _problems(self) -> tuple[tuple[str, str], ...]:
        rows = self._rows("select path, problem from unreadable join blobs using (blob)")
        rows += self._rows("select path, problem from work_tree where record is null")
        return tuple(sorted(set(rows)))

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._database.execute(query, values).fetchall()

    def _one(self, query: str) -> int:
        return int(self._rows(query)[0][0])

    def _count(self, table: str) -> int:
        return self._one(f"select count(*) from {table}")  # noqa: S608 - names of our own tables

    def _state(self, key: str) -> str:
        rows = self._rows("select value from state where key = ?", key)
        return str(rows[0][0]) if rows else ""

    def _set_state(self, key: str, value: str) -> None:
        self._database.execute("insert or replace into state values (?, ?)", (key, value))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it is seen, or nothing."""
        self._database.execute("begin immediate")
        try:
            yield
        except BaseException:
            if self._database.in_transaction:  # SQLite ends some failures with a rollback of its own
                self._database.execute("rollback")
            raise
        self._database.execute("commit")

    def _guarded(self, ask: Callable[[], _Result]) -> _Result:
        """Ask; where the file proves to be damaged, make it again and ask once more."""
        try:
            return ask()
        except sqlite3.DatabaseError as error:
            if not calls_for_another(error):
                raise unusable(error, self._path) from error
        self._database.close()
        self._database = make_again(self._path)
        try:
            self._refresh()
            return ask()
        except sqlite3.DatabaseError as error:
            raise unusable(error, self._path) from error


def _key(digest: Digest) -> bytes:
    return bytes.fromhex(digest.hex)


def _range(prefix: str) -> tuple[bytes, bytes]:
    """Least and greatest digest that start with these hexadecimal digits."""
    return bytes.fromhex(prefix.ljust(64, "0")), bytes.fromhex(prefix.ljust(64, "f"))


def _entries(root: Path, folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds; nothing where there is none. Thousands are read, and pathlib takes five times as long."""
    try:
        with os.scandir(f"{root}/{folder}") as entries:
            return list(entries)
    except OSError:
        return []


def _is_text(path: str) -> bool:
    """Whether a path is text; SQLite takes no other, and no stage can be called so."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
