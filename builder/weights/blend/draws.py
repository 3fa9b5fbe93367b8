"""Random numbers that depend on what they are for, not on when they are drawn.

Philox 4x64-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a counter into random bits
under a key. The key is made of the seed, the model and the tensor's name, the counter is the element's index; so any
order of tiles, tensors and threads gives the same bits, and another model in the blend changes none of them. NumPy
computes it in integers and promises that its stream stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from registry.canonical import encode
from registry.digest import digest_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from registry.digest import Digest

__all__ = ["WORDS", "Draws", "philox"]

WORDS: Final = 1 << 32
"""How many values a word may have; each is as likely as the others."""

_KEY_DIGITS: Final = 32  # hexadecimal; 128 bits
_BLOCK_WORDS: Final = 8  # words of 32 bits that one counter gives
_COUNTERS: Final = 1 << 256


class Draws:
    """A random word of 32 bits for each element of one model's tensor."""

    __slots__ = ("_key",)

    def __init__(self, seed: int, model: Digest, tensor: str) -> None:
        """Make the key: the first half of a SHA-256."""
        named = encode({"model": str(model), "seed": seed, "tensor": tensor})
        self._key = int(digest_bytes(named).hex[:_KEY_DIGITS], 16)

    def words(self, first: int, count: int) -> NDArray[np.uint32]:
        """The words of ``count`` elements from element ``first`` on."""
        block, skipped = divmod(first, _BLOCK_WORDS)
        raw = philox(self._key, block, -(-(skipped + count) // 2))
        return raw.astype("<u8", copy=False).view("<u4")[skipped : skipped + count]


def philox(key: int, counter: int, count: int) -> NDArray[np.uint64]:
    """The first ``count`` words of 64 bits of Philox 4x64-10 from a counter on; each counter gives four."""
    # NumPy counts up before it draws.
    return np.random.Philox(counter=(counter - 1) % _COUNTERS, key=key).random_raw(count)
