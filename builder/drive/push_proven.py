"""Sends what a request gave to where strangers may write too: proven here, and believed there for no name.

1. What the default remote has was released: it stays, and needs no note.
2. What the target has under the right name is read back and hashed, unless this runner put it there; else it is
   replaced. So junk that was laid there first keeps nobody's bytes out.
3. Each file is hashed against its record before it goes; a listing goes last, and then the note.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.drive.noting import leave_notes
from builder.request.carry import Carrier
from builder.request.goods import Goods
from builder.request.places import Cache, Remote
from builder.request.sent import Sent
from registry.errors import DigestMismatchError, Error, InvalidError, NotFoundError
from registry.plain_file import read_plain
from registry.record import Record
from registry.remote_files import RemoteFiles
from registry.terminal import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from builder.drive.errand import Errand
    from builder.edges import Address

__all__ = ["goods_in_cache", "push_proven"]


def push_proven(errand: Errand, outputs: Mapping[Address, tuple[str, ...]], say: Callable[[str], None]) -> int:
    """Send stages of a request, and leave notes of them.

    Args:
        errand: What is built, and where bytes go.
        outputs: Names of folder and record of each stage; DVC's cache has them.
        say: Tells the person at the terminal.

    Returns:
        Files that were sent.

    Raises:
        InvalidError: A record or a listing is broken. All others were sent, as below.
        DigestMismatchError: An artifact is not what its record says.
        NotFoundError: DVC's cache lacks a part of one, or there is no such remote.
        DeniedError: The remote does not let us write.
        TransportError: The remote does not answer as it should.
        MachineError: The disk is full.
    """
    home, cache, store = errand.home, Cache(errand.root), open_store()
    carrier = Carrier(cache, Remote(home, errand.remote), store, say, sent=Sent(home, errand.remote))
    failures: list[Error] = []
    goods: list[Goods] = []
    for address, pair in outputs.items():
        try:
            goods.append(goods_in_cache(cache, address, pair))
        except InvalidError as error:
            failures.append(error)
    wanted = _unreleased(Carrier(cache, Remote(home), store, say), goods)
    missing, files = carrier.lacking(wanted), RemoteFiles(home, errand.remote)
    leave_notes(errand, (one for one in wanted if one not in missing), files, say)
    for one in missing:
        try:
            carrier.carry(one)
        except (DigestMismatchError, InvalidError, NotFoundError) as error:  # the others go on
            failures.append(error)
        else:
            leave_notes(errand, [one], files, say)  # at once: the next may be large, and this machine may die
    if failures:
        raise failures[0]
    return carrier.moved_files


def goods_in_cache(cache: Cache, address: Address, outputs: Sequence[str]) -> Goods:
    """A stage as DVC's cache has it.

    Args:
        cache: The cache.
        address: The stage.
        outputs: Names of its folder and of its record.

    Raises:
        InvalidError: The record is none of this stage.
    """
    listing_oid, record_oid = outputs
    data = read_plain(cache.path(record_oid))
    record = Record.from_bytes(data, where=f"the record of {address}")
    if record.ref != str(address):
        raise InvalidError(
            f"this is the record of {record.ref}",
            where=f"the record of {address}",
            mend="remove the artifact of this stage and build it again",
        )
    return Goods(record=record, record_data=data, listing_oid=listing_oid, data=())


def _unreleased(released: Carrier, goods: Sequence[Goods]) -> tuple[Goods, ...]:
    """Those that the default remote lacks; all of them where there is none, or it does not answer."""
    try:
        return released.lacking(goods) if goods else ()
    except Error:
        return tuple(goods)
