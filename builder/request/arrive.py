"""Into DVC's cache what a request's build needs and only the quarantine has: proven first, since DVC would not look.

DVC asks its default remote alone. Artifacts of an earlier build of the request, and data that its author pushed, are in
quarantine until the merge; they are brought from there, artifacts by the sha256 of their records, data by its md5.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from builder.edges import Address, DataFile
from builder.request.assembled import Assembled
from builder.request.carry import Carrier
from builder.request.goods import goods_of
from builder.request.machine import QUARANTINE, remote_names
from builder.request.places import Cache, Remote
from builder.request.pointer import read_pointer
from registry.errors import DigestMismatchError, NotFoundError
from registry.plain_file import read_plain
from registry.record import lock_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from builder.request.pointer import Pointer
    from registry.store import Store

__all__ = ["bring"]

_BLOCK_BYTES = 1 << 20


def bring(
    root: Path, sources: Iterable[Address | DataFile], *, store: Store, say: Callable[[str], None]
) -> tuple[str, ...]:
    """Bring inputs of stages out of quarantine; nothing where the tree is no request's, or there is no quarantine.

    Args:
        root: Root of the tree that is built.
        sources: The inputs that are not in the work tree.
        store: Local content store.
        say: Tells the person at the terminal.

    Returns:
        What came; the rest is on the default remote, or nowhere.

    Raises:
        DigestMismatchError: The quarantine has other bytes than a record or a ``.dvc`` file says.
        InvalidError: A listing there names other files than the record.
        DeniedError: The quarantine does not let us read.
        TransportError: It does not answer.
    """
    if Assembled.read(root) is None or QUARANTINE not in remote_names(root):
        return ()
    cache, remote = Cache(root), Remote(root, QUARANTINE)
    came: list[str] = []
    for source in dict.fromkeys(sources):
        brought = (
            _bring_data(root, source, cache, remote)
            if isinstance(source, DataFile)
            else _bring_artifact(root, source, Carrier(remote, cache, store, say))
        )
        if brought:
            came.append(str(source) if isinstance(source, Address) else source.path)
            say(f"{came[-1]} came out of quarantine")
    return tuple(came)


def _bring_artifact(root: Path, address: Address, carrier: Carrier) -> bool:
    def read(path: str) -> bytes | None:
        return read_plain(root / path) if (root / path).is_file() else None

    home = str(lock_file(address.variant).parent)
    wanted = [one for one in goods_of(home, read) if one.record.stage == address.stage]
    missing = carrier.lacking(wanted)
    for one in missing:
        try:
            carrier.carry(one)
        except NotFoundError:
            return False
    return bool(missing)


def _bring_data(root: Path, source: DataFile, cache: Cache, remote: Remote) -> bool:
    path = root / f"{source.path}.dvc"
    if not path.is_file():
        return False
    pointer = read_pointer(read_plain(path), f"{source.path}.dvc")
    if cache.exists([pointer.md5]) or not remote.exists([pointer.md5]):
        return False
    with tempfile.TemporaryDirectory(prefix="varietal-") as name:
        target = Path(name) / pointer.md5
        _fetch(remote, pointer, target)
        cache.put(target, pointer.md5)
    return True


def _fetch(remote: Remote, pointer: Pointer, target: Path) -> None:
    """Stream an object, not one byte more than it has."""
    hasher, left = hashlib.md5(usedforsecurity=False), pointer.size_bytes + 1
    with remote.open(pointer.md5, 0) as stream, target.open("wb") as out:
        while left and (block := stream.read(min(left, _BLOCK_BYTES))):
            hasher.update(block)
            out.write(block)
            left -= len(block)
    if left != 1 or hasher.hexdigest() != pointer.md5:
        raise DigestMismatchError(
            f"{pointer.path} has other bytes than its .dvc file says",
            where=f"{remote.name}: {pointer.md5}",
            mend="ask its author to push it again: `dvc push --remote quarantine`",
        )
