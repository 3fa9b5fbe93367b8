"""An SSH public key as a value: read strictly, named by its fingerprint. Nothing is run."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from registry.errors import InvalidError

__all__ = ["KEY_PATTERN", "PublicKey", "read_keys"]

_KINDS = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)
_ANY_KIND = "|".join(kind.replace(".", r"\.") for kind in _KINDS)
KEY_PATTERN = rf"(?:{_ANY_KIND}) [A-Za-z0-9+/]{{32,4000}}={{0,2}}(?: [!-~]{{1,256}})?"
"""One line of a `.pub` file, its comment at most one word."""

_MAX_KEYS = 64
_LENGTH_BYTES = 4
_MEND = "copy the line of the `.pub` file that `ssh-keygen -t ed25519` made"


@dataclass(frozen=True, order=True, slots=True)
class PublicKey:
    """A public key.

    Attributes:
        kind: Such as ``ssh-ed25519``.
        blob: The key in base64, as in a ``.pub`` file.
    """

    kind: str
    blob: str

    @classmethod
    def parse(cls, text: str, *, where: str) -> PublicKey:
        """Read one line of a ``.pub`` file; a comment at its end is left out.

        Raises:
            InvalidError: It is no public key, or of a kind that is too weak.
        """
        kind, _, rest = text.strip(" ").partition(" ")
        blob = rest.partition(" ")[0]
        if "\n" in text or "\r" in text or kind not in _KINDS or not _names_itself(kind, blob):
            raise InvalidError(f"{text[:60]!r} is no SSH public key", where=where, mend=_MEND)
        return cls(kind, blob)

    @property
    def fingerprint(self) -> str:
        """``SHA256:...``, as ``ssh-keygen -l`` prints it."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def __str__(self) -> str:
        """The line of a ``.pub`` file, without a comment."""
        return f"{self.kind} {self.blob}"


def read_keys(text: str, *, where: str) -> tuple[PublicKey, ...]:
    """Keys of a file: one a line, ``#`` starts a comment line.

    Raises:
        InvalidError: A line is no key, there is none, or there are more than 64.
    """
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(PublicKey.parse(line, where=where) for line in lines if line and not line.startswith("#"))
    if not keys or len(keys) > _MAX_KEYS:
        raise InvalidError(f"{len(keys)} keys, expected 1 to {_MAX_KEYS}", where=where, mend=_MEND)
    return keys


def _names_itself(kind: str, blob: str) -> bool:
    """Whether a whole key is inside, of the kind that its line says: fields, each with its length before it."""
    try:
        data = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return False
    fields: list[bytes] = []
    while len(data) > _LENGTH_BYTES:
        end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
        fields.append(data[_LENGTH_BYTES:end])
        if end > len(data) or not fields[-1]:
            return False
        data = data[end:]
    return not data and len(fields) > 1 and fields[0] == kind.encode()
