"""The Digest value, printed ``sha256:<hex>``, with streaming hashes of bytes and files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

__all__ = ["Digest", "Hasher", "digest_bytes", "digest_file"]

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, order=True, slots=True)
class Digest:
    """A hash that knows its algorithm.

    Attributes:
        hex: 64 lower-case hexadecimal digits.
        algorithm: Always ``sha256`` today; written out so that another can follow.
    """

    hex: str
    algorithm: str = "sha256"

    @classmethod
    def parse(cls, text: object, *, where: str = "digest") -> Digest:
        """Read ``sha256:<64 hex>``.

        Args:
            text: What was found; anything but such a string is refused.
            where: Named in the error.

        Raises:
            InvalidError: ``text`` is not a digest.
        """
        if not isinstance(text, str) or _PATTERN.fullmatch(text) is None:
            raise InvalidError(
                f"{text!r} is not a digest",
                where=where,
                mend="write sha256: and 64 lower-case hexadecimal digits",
            )
        algorithm, _, digits = text.partition(":")
        return cls(digits, algorithm)

    @property
    def short(self) -> str:
        """The first 12 digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        """``sha256:<hex>``, the form that :meth:`parse` reads."""
        return f"{self.algorithm}:{self.hex}"


class Hasher:
    """Hashes a stream of buffers."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        """Start with nothing hashed."""
        self._state = hashlib.sha256()

    def update(self, data: Buffer) -> None:
        """Add the next bytes."""
        self._state.update(data)

    def digest(self) -> Digest:
        """The digest of all bytes so far; more may follow."""
        return Digest(self._state.hexdigest())


def digest_bytes(data: Buffer) -> Digest:
    """Digest of bytes in memory."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest_file(path: Path) -> Digest:
    """Digest of a file, read in blocks of 1 MiB.

    Raises:
        OSError: The file cannot be read.
    """
    hasher = Hasher()
    block = bytearray(_BLOCK_BYTES)
    view = memoryview(block)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(block):
            hasher.update(view[:count])
    return hasher.digest()
