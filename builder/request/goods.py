"""What has to be on a remote for a lock and its records to be of use: artifacts, their records, data kept by DVC.

Locks say where the bytes are (md5), records what they must be (sha256). Both are read from one place, and what they say
of each other has to agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from builder.request.pointer import read_pointer
from registry.errors import InvalidError, RefusedError
from registry.lock import Lock, content_md5
from registry.record import BASES, Record, artifact_folder, artifact_record, git_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from registry.digest import Digest
    from registry.lock import LockedStage

    Read: TypeAlias = Callable[[str], bytes | None]

__all__ = ["DataGoods", "Goods", "goods_of"]

_RECORDS = "records"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataGoods:
    """A data file that DVC keeps: path, md5, sha256 as a record says it, size."""

    path: str
    md5: str
    digest: Digest
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Goods:
    """One artifact with what belongs to it.

    Attributes:
        record: What it is made of.
        record_data: The record's bytes.
        listing_oid: DVC's name of its folder.
        data: Data files that it was made from and that DVC keeps.
    """

    record: Record
    record_data: bytes
    listing_oid: str
    data: tuple[DataGoods, ...]


def goods_of(home: str, read: Read) -> tuple[Goods, ...]:
    """The goods of one variant, or of the bases.

    Args:
        home: Its folder.
        read: Bytes of a file by its path from the root; ``None`` where there is none.

    Raises:
        InvalidError: A lock or a record breaks its rules.
        RefusedError: A record is not what the lock says that was built.
    """
    path = f"{home}/dvc.lock"
    lock = Lock.parse(read(path) or b"", where=path)
    variant = BASES if home == BASES else PurePosixPath(home).name
    found = []
    for name, stage in lock.stages.items():
        own = name.partition("@")[2] if home == BASES else name
        if name.partition("@")[0] != _RECORDS:
            found.append(_goods(variant, own, stage, read))
    return tuple(found)


def _goods(variant: str, name: str, stage: LockedStage, read: Read) -> Goods:
    path = str(git_record(variant, name))
    data = read(path)
    outputs = [stage.outputs.get(str(one(variant, name))) for one in (artifact_folder, artifact_record)]
    folder, locked = outputs
    if data is None or folder is None or locked is None or locked.md5 != content_md5(data):
        raise RefusedError(
            f"{path} is not the record that was built",
            where=f"dvc.lock of {variant}",
            mend=f"run `varietal build {variant}`, which puts it back; then publish",
        )
    record = Record.from_bytes(data, where=path)
    if (record.variant, record.stage) != (variant, name) or not folder.is_folder:
        raise InvalidError(f"this is the record of {record.ref}", where=path, mend="restore it from git")
    return Goods(record=record, record_data=data, listing_oid=folder.md5, data=tuple(_data(stage, record, read)))


def _data(stage: LockedStage, record: Record, read: Read) -> Iterator[DataGoods]:
    digests = {one.source.removeprefix("data:"): one.digest for one in record.inputs if one.source.startswith("data:")}
    for path, dependency in stage.dependencies.items():
        if path not in digests or (text := read(f"{path}.dvc")) is None:
            continue
        pointer = read_pointer(text, f"{path}.dvc")
        if pointer.md5 == dependency.md5:  # else it has changed since, and the stage is stale
            yield DataGoods(path=path, md5=pointer.md5, digest=digests[path], size_bytes=pointer.size_bytes)
