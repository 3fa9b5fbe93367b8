"""Into DVC's cache what a request's build needs and only the quarantine has: proven first, since DVC would not look.

DVC asks its default remote alone. Artifacts of an earlier build of the request, and data that its author pushed, are in
quarantine until the merge; they are brought from there, artifacts by the sha256 of their records, data by its md5.

Two files of one md5 can be made. So what the default remote has is never brought from quarantine; and the sha256 that
came under an md5 first is noted beside the cache, which all requests share: other bytes of that name are refused.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from builder.edges import Address, DataFile
from builder.request.carry import Carrier
from builder.request.goods import goods_of
from builder.request.inside import read_inside
from builder.request.machine import QUARANTINE, remote_names
from builder.request.places import Cache, Remote
from builder.request.pointer import read_pointer
from builder.work import write_file
from registry.digest import Digest, digest_file
from registry.errors import DigestMismatchError, NotFoundError
from registry.record import lock_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from builder.request.pointer import Pointer
    from registry.store import Store

__all__ = ["bring"]

_BLOCK_BYTES = 1 << 20


def bring(
    root: Path, sources: Iterable[Address | DataFile], *, home: Path, store: Store, say: Callable[[str], None]
) -> tuple[str, ...]:
    """Bring inputs of a request's stages out of quarantine; nothing where there is no quarantine.

    Args:
        root: Root of the tree that is built. That it is a request's is the caller's word: stages can write there.
        sources: The inputs that are not in the work tree.
        home: Root of the runner's repository, which says where the remotes are.
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
    if QUARANTINE not in remote_names(home):
        return ()
    cache, remote = Cache(root), Remote(home, QUARANTINE)
    released = Remote(home)
    came: list[str] = []
    for source in dict.fromkeys(sources):
        brought = (
            _bring_data(root, source, cache, remote, released)
            if isinstance(source, DataFile)
            else _bring_artifact(root, source, Carrier(remote, cache, store, say))
        )
        if brought:
            came.append(str(source) if isinstance(source, Address) else source.path)
            say(f"{came[-1]} came out of quarantine")
    return tuple(came)


def _bring_artifact(root: Path, address: Address, carrier: Carrier) -> bool:
    def read(path: str) -> bytes | None:
        return read_inside(root, path)

    home = str(lock_file(address.variant).parent)
    wanted = [one for one in goods_of(home, read) if one.record.stage == address.stage]
    missing = carrier.lacking(wanted)
    for one in missing:
        try:
            carrier.carry(one)
        except NotFoundError:
            return False
    return bool(missing)


def _bring_data(root: Path, source: DataFile, cache: Cache, remote: Remote, released: Remote) -> bool:
    data = read_inside(root, f"{source.path}.dvc")
    if data is None:
        return False
    pointer = read_pointer(data, f"{source.path}.dvc")
    if _is_released(released, pointer.md5):
        return False  # DVC brings it from there
    here, noted = bool(cache.exists([pointer.md5])), _noted(cache, pointer.md5)
    if (here and noted) or not remote.exists([pointer.md5]):
        return False
    with tempfile.TemporaryDirectory(prefix="varietal-") as name:
        target = Path(name) / pointer.md5
        _fetch(remote, pointer, target)
        came = digest_file(target)
        known = noted or (digest_file(cache.path(pointer.md5)) if here else came)
        if known != came:
            raise DigestMismatchError(
                f"{pointer.path} has the md5 of a file that is known here, and other bytes: {came}, not {known}",
                where=f"{remote.name}: {pointer.md5}",
                mend="do not build this: somebody made two files of one md5. Ask for data with another",
            )
        _note(cache, pointer.md5, came)
        if not here:
            cache.put(target, pointer.md5)
    return not here


def _is_released(released: Remote, md5: str) -> bool:
    """Whether the default remote has an object; not where there is no default remote."""
    try:
        return bool(released.exists([md5]))
    except NotFoundError:
        return False


def _note_file(cache: Cache, md5: str) -> Path:
    return cache.folder / "varietal" / "sha256" / md5[:2] / md5[2:]


def _noted(cache: Cache, md5: str) -> Digest | None:
    """The sha256 of what came under an md5 first."""
    path = _note_file(cache, md5)
    try:
        return Digest.parse(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return None


def _note(cache: Cache, md5: str, digest: Digest) -> None:
    path = _note_file(cache, md5)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, f"{digest}\n".encode("ascii"))


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
