"""An artifact from one place to another: every file proven on the way, content first, its listing last.

1. Where the target has the listing, all that it names is there: it came last. Where others may write to the target,
   that is no proof: what it has is read back and hashed, unless this runner is known to have put it there.
2. The listing is read from the source, and must name the files of the record and nothing else.
3. Each file that the target lacks is hashed: by sha256 against the record, by md5 against the name that it will have.
4. The files go over, then the record, then the listing. What was broken off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from registry.artifact import LISTING
from registry.canonical import MAX_BYTES
from registry.counted import counted
from registry.digest import Hasher, digest_bytes, digest_file
from registry.errors import DigestMismatchError, NotFoundError
from registry.listing import most_bytes, read_listing
from registry.lock import content_md5
from registry.store import Wanted
from registry.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from builder.request.goods import DataGoods, Goods
    from builder.request.places import Cache, Remote
    from builder.request.sent import Sent
    from registry.remote import Source
    from registry.store import Store

__all__ = ["Carrier"]

_BLOCK_BYTES = 1 << 20


class Carrier:
    """Carries goods from one place to another.

    Attributes:
        moved_bytes: Bytes that were put so far.
        moved_files: Objects that were put so far.
    """

    def __init__(
        self,
        source: Cache | Remote,
        target: Cache | Remote,
        store: Store,
        say: Callable[[str], None],
        *,
        sent: Sent | None = None,
    ) -> None:
        """Nothing is moved yet.

        Args:
            source: Where the objects are.
            target: Where they shall be.
            store: Local content store, in which what comes from a remote is proven.
            say: Tells the person at the terminal.
            sent: What the target is known to have, where others may write to it; ``None`` where nobody else may.
        """
        self.moved_bytes = 0
        self.moved_files = 0
        self._sent = sent
        self._source: Source = source
        self._shelf = getattr(source, "path", None)
        self._target = target
        self._store = store
        self._say = say

    def lacking(self, goods: Iterable[Goods]) -> tuple[Goods, ...]:
        """The goods that the target does not have whole, asked about all at once."""
        wanted = tuple(goods)
        names = {one.listing_oid for one in wanted} | {content_md5(one.record_data) for one in wanted}
        there = self._target.exists(names | {data.md5 for one in wanted for data in one.data})

        def is_whole(one: Goods) -> bool:
            named = {one.listing_oid, content_md5(one.record_data), *(data.md5 for data in one.data)}
            return named <= there and all(map(self._is_known, named))

        return tuple(one for one in wanted if not is_whole(one))

    def carry(self, goods: Goods) -> None:
        """See that the target has an artifact, its record and its data.

        Raises:
            NotFoundError: The source lacks a part of it.
            DigestMismatchError: Its bytes are not those of the record; nothing of them was put.
            InvalidError: The listing is no listing, or names other files than the record.
            DeniedError: A place refuses.
            TransportError: A place does not answer.
            MachineError: The disk is full.
        """
        record = goods.record
        if not (self._target.exists([goods.listing_oid]) and self._is_known(goods.listing_oid)):
            listing = self._listing(goods)
            oids = read_listing(listing, goods.listing_oid, record, origin=self._source.name)
            wanted = [
                *(Wanted(path=one.path, digest=one.digest, size_bytes=one.size_bytes) for one in record.artifact.files)
            ]
            wanted.append(Wanted(path=LISTING, digest=record.artifact.listing, size_bytes=MAX_BYTES, open_ended=True))
            self._put_all([(one, oids[one.path]) for one in wanted], record.ref)
            self._put_bytes(goods.record_data, content_md5(goods.record_data))
            self._put_bytes(listing, goods.listing_oid)
        self._put_bytes(goods.record_data, content_md5(goods.record_data))
        for data in goods.data:
            self._carry_data(data)

    def _carry_data(self, data: DataGoods) -> None:
        wanted = Wanted(path=Path(data.path).name, digest=data.digest, size_bytes=data.size_bytes)
        self._put_all([(wanted, data.md5)], data.path)

    def _is_known(self, oid: str) -> bool:
        """Whether an object that is there need not be looked at."""
        return self._sent is None or oid in self._sent

    def _listing(self, goods: Goods) -> bytes:
        """The listing, from the source; from the target where only that has it, as after a build elsewhere."""
        limit = most_bytes(goods.record)
        if self._source.exists([goods.listing_oid]) or not self._target.exists([goods.listing_oid]):
            return self._read(self._source, goods.listing_oid, limit)
        return self._read(self._target, goods.listing_oid, limit)

    def _holds(self, wanted: Wanted, oid: str) -> bool:
        """Whether the target has these very bytes, and not only something of their name."""
        if self._sent is None or oid in self._sent:
            return True
        hasher, size_bytes = Hasher(), 0
        with self._target.open(oid, 0) as stream:
            while size_bytes <= wanted.size_bytes and (block := stream.read(_BLOCK_BYTES)):
                hasher.update(block)
                size_bytes += len(block)
        if hasher.digest() == wanted.digest:
            self._sent.add(oid)
            return True
        self._say(f"{self._target.name} has other bytes than {wanted.path}: they are replaced")
        return False

    def _put_all(self, wanted: Sequence[tuple[Wanted, str]], what: str) -> None:
        there = self._target.exists(oid for _, oid in wanted)
        missing = [(one, oid) for one, oid in wanted if oid not in there or not self._holds(one, oid)]
        if not missing:
            return
        if self._shelf is not None:
            for one, oid in missing:
                self._put(self._checked(self._shelf(oid), one, oid), oid)
        else:
            self._store.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._store.folder, prefix="carry-") as name:
                Transfer((self._source,), self._store, self._say).fetch_all(missing, Path(name))
                for one, oid in missing:
                    path = Path(name) / one.path
                    _check_md5(path, oid, one.path)
                    self._put(path, oid)
        self._say(f"{what}: {counted(len(missing), 'file')} to {self._target.name}")

    def _checked(self, path: Path, wanted: Wanted, oid: str) -> Path:
        """A file of this machine, hashed where it lies."""
        if not path.is_file():
            raise NotFoundError(
                f"{self._source.name} has no {wanted.path}",
                where=str(path),
                mend="build the stage again; where it was built elsewhere, send its bytes from there: "
                "remove this object from the remote if it has other bytes, then `varietal build --push`",
            )
        if (got := digest_file(path)) != wanted.digest:
            raise DigestMismatchError(
                f"{wanted.path} has {got}, its record says {wanted.digest}",
                where=str(path),
                mend="the cache was written to: remove this file and build the stage again",
            )
        _check_md5(path, oid, wanted.path)
        return path

    def _put_bytes(self, data: bytes, oid: str) -> None:
        wanted = Wanted(path=oid, digest=digest_bytes(data), size_bytes=len(data))
        if self._target.exists([oid]) and self._holds(wanted, oid):
            return
        with tempfile.NamedTemporaryFile(prefix="varietal-") as stream:
            stream.write(data)
            stream.flush()
            self._put(Path(stream.name), oid)

    def _put(self, path: Path, oid: str) -> None:
        self._target.put(path, oid)
        if self._sent is not None:
            self._sent.add(oid)
        self.moved_bytes += path.stat().st_size
        self.moved_files += 1

    def _read(self, place: Source, oid: str, limit_bytes: int) -> bytes:
        """All of a small object, up to one byte more than it may have."""
        data = b""
        with place.open(oid, 0) as stream:
            while room := limit_bytes + 1 - len(data):
                block = stream.read(min(room, _BLOCK_BYTES))
                if not block:
                    break
                data += block
        return data


def _check_md5(path: Path, oid: str, name: str) -> None:
    """Else a right file would stand under a wrong name, and keep the one that belongs there out."""
    with path.open("rb") as stream:
        got = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != oid:
        raise DigestMismatchError(
            f"{name} has md5 {got}, it is called {oid}", where="promotion", mend="push the artifact again"
        )
