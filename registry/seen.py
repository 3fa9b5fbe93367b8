"""What this host has seen of channels: their sequence numbers, so that an old state is noticed.

Kept beside the content store, for each channel and each trusted key: the memory outlives a change of the server's
address and of one of the keys, and two publishers with a channel of one name do not disturb each other.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from registry.canonical import JSON, decode, pretty
from registry.descriptor import ChannelDescriptor, Sighting, check_newer
from registry.errors import InvalidError
from registry.file_lock import locked
from registry.store import disk_errors
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.ssh_key import PublicKey

__all__ = ["Seen"]

_SCHEMA = "varietal/seen/1"
_MAX_BYTES = 1 << 20


class Seen:
    """The memory of one host."""

    def __init__(self, folder: Path) -> None:
        """Keep it in ``folder``, which is made when there is something to keep."""
        self._folder = folder

    def take(self, descriptor: ChannelDescriptor, trusted: Sequence[PublicKey], *, where: str) -> None:
        """Refuse a state that is older than what was seen under any of the trusted keys; else remember it.

        Raises:
            DeniedError: A higher sequence number was seen.
            ConflictError: The same number stood for another artifact.
            InvalidError: The memory cannot be read.
            MachineError: It cannot be written.
        """
        path = self._folder / descriptor.ref.variant / f"{descriptor.ref.channel}.json"
        names = [key.fingerprint for key in trusted]
        with disk_errors(path), locked(path.with_suffix(".lock")):
            seen = _read(path)
            check_newer(descriptor, [seen[name] for name in names if name in seen], where=where)
            now = Sighting(sequence=descriptor.sequence, artifact_digest=descriptor.artifact_digest)
            if any(seen.get(name) != now for name in names):
                _write(path, seen | dict.fromkeys(names, now))


def _read(path: Path) -> dict[str, Sighting]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    where = str(path)
    try:
        table = Table(decode(data, where=where, max_bytes=_MAX_BYTES), where)
        table.only("schema", "seen")
        table.constant("schema", _SCHEMA)
        rows = table.table("seen")
        found = {name: rows.table(name) for name in rows.names()}
        for row in found.values():
            row.only("sequence", "artifact_digest")
        return {
            name: Sighting(sequence=row.count("sequence"), artifact_digest=row.digest("artifact_digest"))
            for name, row in found.items()
        }
    except InvalidError as error:
        raise InvalidError(
            f"what was seen of this channel cannot be read: {error.what}",
            where=where,
            mend="look who writes there; remove the file only if you know that the server gives the newest state",
        ) from error


def _write(path: Path, seen: dict[str, Sighting]) -> None:
    rows: JSON = {
        name: {"sequence": one.sequence, "artifact_digest": str(one.artifact_digest)} for name, one in seen.items()
    }
    new = path.with_suffix(".new")
    with new.open("wb") as stream:
        stream.write(pretty({"schema": _SCHEMA, "seen": rows}))
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
