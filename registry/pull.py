"""From a record to a folder of proven bytes, shown only when it is whole.

1. A folder that holds the very artifact is verified and left; one that holds something else is not touched.
2. The listing of the folder is fetched and checked: it names the files of the record and nothing else. Where a signed
   descriptor names the objects, it is that listing.
3. Objects that the store lacks are fetched, several at once, each resumed where an earlier pull was broken off. Their
   sha256 and size must be those of the record; a source that gives other bytes is reported and the next one asked.
4. Every object is hashed again while it is linked out of the store, into a folder beside the target.
5. That folder is renamed to the target.

The record itself is the caller's to prove: ``resolve`` takes it from git, and checks it against the lock and the tag.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from registry.artifact import LISTING, Artifact
from registry.canonical import MAX_BYTES
from registry.errors import InvalidError
from registry.listing import check_paths
from registry.store import Wanted, disk_errors, link
from registry.target import difference, folder_beside, holds, show
from registry.transfer import FAILURES, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from registry.digest import Digest
    from registry.record import Record, RecordInput
    from registry.remote import Source
    from registry.store import Store

__all__ = ["Candidate", "PullReport", "fetch", "materialise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PullReport:
    """What a pull did.

    Attributes:
        target: The folder.
        digest: Digest of the artifact in it.
        moved_bytes: Bytes that came from a source.
        had_bytes: Bytes that the store or the folder had already.
        moved_from: Bytes by source.
        kept: The folder held the artifact already and was left as it is.
        notes: What went wrong on the way and was mended.
        base: For an adapter, the model that it needs beside it.
    """

    target: Path
    digest: Digest
    moved_bytes: int
    had_bytes: int
    moved_from: Mapping[str, int]
    kept: bool
    notes: tuple[str, ...]
    base: RecordInput | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An artifact that is said to exist.

    Attributes:
        record: Its record.
        folder: Where it may lie in a work tree.
        listing_oid: Object id of its listing, ``<md5>.dir``; empty where no lock names it.
    """

    record: Record
    folder: Path
    listing_oid: str


def fetch(
    record: Record,
    listing: str | Mapping[str, str],
    target: Path,
    *,
    sources: Sequence[Source],
    store: Store,
    say: Callable[[str], None],
    force: bool = False,
) -> PullReport:
    """Give ``target`` the artifact of a record.

    Args:
        record: The artifact, proven by the caller.
        listing: Object id of DVC's listing of its folder, ``<md5>.dir``; or the object of each file, by path, from a
            document that the caller has proven.
        target: Folder to make.
        sources: Where to look, in this order.
        store: Keeps what was fetched, and gives what was fetched before.
        say: Tells the person at the terminal.
        force: Replace another artifact that ``target`` holds.

    Raises:
        ConflictError: ``target`` holds something else.
        NotFoundError: No source has an object.
        DigestMismatchError: No source has the right bytes of an object.
        InvalidError: The listing is not that of the record, or a source is configured wrongly.
        DeniedError: A source does not let us read, and no other has an object.
        TransportError: A source does not answer, and no other has an object. What came is kept.
        MachineError: The disk is full (what came is kept), or a program is missing.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow a link
    files = _wanted(record)
    if holds(record, target, force=force):
        return _report(record, target, had_bytes=record.artifact.size_bytes, kept=True)
    transfer = Transfer(sources, store, say)
    objects = transfer.read_listing(listing, record) if isinstance(listing, str) else listing
    store.check_space(sum(_missing_bytes(store, file) for file in files))
    with folder_beside(target) as folder:
        transfer.fetch_all([(file, objects[file.path]) for file in files], folder)
        _check_whole(record, folder)
        show(record, folder, target, force=force)
    return _report(
        record, target, had_bytes=transfer.had_bytes, moved=transfer.moved, notes=tuple(transfer.notes), kept=False
    )


def materialise(
    candidates: Sequence[Candidate],
    target: Path,
    *,
    sources: Sequence[Source],
    store: Store,
    say: Callable[[str], None],
) -> Record | None:
    """Give ``target`` the bytes of the first candidate whose bytes can be had.

    Folders of the work tree are tried before any source is asked; what is there is believed only after it was hashed.

    Args:
        candidates: Artifacts that would do, best first.
        target: Folder to make; it may be there, empty.
        sources: Where to look for those that are not in the work tree, in this order.
        store: Keeps what was fetched, and gives what was fetched before.
        say: Tells the person at the terminal.

    Returns:
        The record whose artifact ``target`` holds now; ``None`` where no candidate can be had.

    Raises:
        ConflictError: ``target`` holds something.
        MachineError: The disk is full, or a program is missing.
    """
    for candidate in candidates:
        if candidate.folder.is_dir() and not difference(candidate.record, candidate.folder):
            _link_folder(candidate, target)
            return candidate.record
    for candidate in candidates:
        if candidate.listing_oid:
            try:
                fetch(candidate.record, candidate.listing_oid, target, sources=sources, store=store, say=say)
            except FAILURES as error:
                say(f"{candidate.record.ref} cannot be reused: {error.what} ({error.where})")
            else:
                return candidate.record
    return None


def _wanted(record: Record) -> list[Wanted]:
    """The files of the folder, its listing last."""
    files = record.artifact.files
    check_paths([*(file.path for file in files), LISTING], where=f"the record of {record.ref}")
    listed = [Wanted(path=file.path, digest=file.digest, size_bytes=file.size_bytes) for file in files]
    return [*listed, Wanted(path=LISTING, digest=record.artifact.listing, size_bytes=MAX_BYTES, open_ended=True)]


def _missing_bytes(store: Store, wanted: Wanted) -> int:
    """What the store has yet to take in; the listing of tensors is too small to matter."""
    if wanted.open_ended or store.has(wanted.digest):
        return 0
    return wanted.size_bytes - min(wanted.size_bytes, store.partial_bytes(wanted.digest))


def _check_whole(record: Record, folder: Path) -> None:
    """The listing in the folder and the record must say the same.

    Raises:
        InvalidError: They contradict each other.
    """
    artifact = Artifact.read(folder)
    said = record.artifact
    if (artifact.type, artifact.files, artifact.weights_digest) != (said.type, said.files, said.weights_digest):
        raise InvalidError(
            f"{LISTING} and the record contradict each other",
            where=f"the record of {record.ref}",
            mend="do not use this artifact; build its stage again",
        )


def _link_folder(candidate: Candidate, target: Path) -> None:
    with folder_beside(target) as folder:
        for file in _wanted(candidate.record):
            path = folder / file.path
            with disk_errors(path, file.size_bytes):
                path.parent.mkdir(parents=True, exist_ok=True)
            link(candidate.folder / file.path, path)
        show(candidate.record, folder, target, force=False)


def _report(
    record: Record,
    target: Path,
    *,
    had_bytes: int,
    kept: bool,
    moved: Mapping[str, int] = MappingProxyType({}),
    notes: tuple[str, ...] = (),
) -> PullReport:
    return PullReport(
        target=target,
        digest=record.artifact.digest,
        moved_bytes=sum(moved.values()),
        had_bytes=had_bytes,
        moved_from=dict(moved),
        kept=kept,
        notes=notes,
        base=_base(record),
    )


def _base(record: Record) -> RecordInput | None:
    """The model under an adapter: what it was trained from, or what lies under the adapter that it went on from."""
    if record.artifact.type != "adapter":
        return None
    by_role = {one.role: one for one in record.inputs}
    return by_role.get("base") or by_role.get("from")
