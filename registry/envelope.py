"""A signed document in one file: a payload as it was signed, and detached signatures of one or more keys beside it.

One file, so that nobody ever reads a new document with an old signature; several signatures, so that a key can be
replaced while hosts trust the old one or the new one. Nothing of the payload is looked at before a trusted key's
signature holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.canonical import JSON, decode, pretty
from registry.errors import DeniedError, InvalidError
from registry.ssh_signature import public_key_of, sign, verify
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.ssh_key import PublicKey

__all__ = ["NAMESPACE", "opened", "seal"]

NAMESPACE = "varietal-descriptor"
"""What the signatures of a descriptor are good for, and nothing else."""

_SCHEMA = "varietal/signed/1"
_MAX_SIGNATURES = 16
_MAX_SIGNATURE_CHARACTERS = 16_384


def seal(payload: bytes, keys: Sequence[Path], *, namespace: str = NAMESPACE) -> bytes:
    """The file of a document, signed by each key.

    Args:
        payload: The document.
        keys: Private keys, or public ones whose private half an agent has.
        namespace: What the signatures are good for.

    Raises:
        NotFoundError: A key is not there.
        DeniedError: A key cannot be used.
        MachineError: ``ssh-keygen`` is missing.
    """
    signatures: list[JSON] = [
        {"key": public_key_of(key).fingerprint, "signature": sign(payload, key, namespace)} for key in keys
    ]
    return pretty({"schema": _SCHEMA, "payload": payload.decode(), "signatures": signatures})


def opened(
    data: bytes, trusted: Sequence[PublicKey], *, where: str, max_bytes: int, namespace: str = NAMESPACE
) -> tuple[bytes, tuple[PublicKey, ...]]:
    """The payload, and which of the trusted keys signed it.

    Args:
        data: The file.
        trusted: Keys whose word is taken.
        where: Named in the errors.
        max_bytes: Limit on the file's size.
        namespace: What the signatures have to be good for.

    Raises:
        InvalidError: It is no such file.
        DeniedError: No trusted key signed it, or a signature that says it is of one does not hold.
        MachineError: ``ssh-keygen`` is missing.
    """
    table = Table(decode(data, where=where, max_bytes=max_bytes), where)
    table.only("schema", "payload", "signatures")
    table.constant("schema", _SCHEMA)
    rows = list(table.rows("signatures"))
    if len(rows) > _MAX_SIGNATURES:
        raise InvalidError(
            f"{len(rows)} signatures, at most {_MAX_SIGNATURES} are read", where=where, mend="ask for it"
        )
    payload = table.text("payload").encode()
    known = {key.fingerprint: key for key in trusted}
    signers: list[PublicKey] = []
    for row in rows:
        row.only("key", "signature")
        key, signature = known.get(row.text("key")), row.text("signature")
        if key is None:
            continue
        if len(signature) > _MAX_SIGNATURE_CHARACTERS or not verify(payload, signature, [key], namespace):
            raise DeniedError(
                f"the signature of {key.fingerprint} does not hold",
                where=where,
                mend="do not use it: it was changed after it was signed; ask who runs the server",
            )
        signers.append(key)
    if not signers:
        others = ", ".join(row.text("key")[:60] for row in rows) or "nobody"
        raise DeniedError(
            f"no trusted key signed this; {others} did",
            where=where,
            mend="have the publisher's new key confirmed by another way before you trust it",
        )
    return payload, tuple(signers)
