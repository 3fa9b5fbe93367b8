"""The random words: Philox by its authors' own vectors, and by a second implementation in whole numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
import pytest

from builder.weights.blend.draws import WORDS, Draws, philox
from registry.digest import digest_bytes

MASK: Final = (1 << 64) - 1

# Counter, key and result, as the known-answer tests of Random123 give them, lowest word first.
VECTORS: Final = [
    ((0, 0, 0, 0), (0, 0), (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)),
    (
        (MASK, MASK, MASK, MASK),
        (MASK, MASK),
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]


def joined(words: tuple[int, ...]) -> int:
    return sum(word << (64 * place) for place, word in enumerate(words))


def by_hand(counter: int, key: int) -> list[int]:
    """Ten rounds, as the paper has them."""
    words = [counter >> (64 * place) & MASK for place in range(4)]
    keys = [key & MASK, key >> 64]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * words[0], 0xCA5A826395121157 * words[2]
        words = [(second >> 64) ^ words[1] ^ keys[0], second & MASK, (first >> 64) ^ words[3] ^ keys[1], first & MASK]
        keys = [(keys[0] + 0x9E3779B97F4A7C15) & MASK, (keys[1] + 0xBB67AE8584CAA73B) & MASK]
    return words


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_words_of_its_authors(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert tuple(philox(joined(key), joined(counter), 4).tolist()) == expected
    assert tuple(by_hand(joined(counter), joined(key))) == expected


def test_an_elements_word_is_its_own_wherever_one_begins_to_draw() -> None:
    draws = Draws(3, digest_bytes(b"model"), "weight")
    whole = draws.words(0, 100)
    key = int(digest_bytes(f'{{"model":"{digest_bytes(b"model")}","seed":3,"tensor":"weight"}}'.encode()).hex[:32], 16)
    halves = [half for block in range(13) for word in by_hand(block, key) for half in (word & 0xFFFFFFFF, word >> 32)]
    assert whole.tolist() == halves[:100]
    for first, count in ((0, 1), (1, 1), (7, 2), (8, 8), (63, 37), (99, 1)):
        assert np.array_equal(draws.words(first, count), whole[first : first + count])
    assert draws.words(2**40 + 5, 3).tolist() == draws.words(2**40, 8)[5:].tolist()


def test_seed_model_and_tensor_each_give_words_of_their_own() -> None:
    kinds = [
        Draws(0, digest_bytes(b"a"), "x"),
        Draws(1, digest_bytes(b"a"), "x"),
        Draws(0, digest_bytes(b"b"), "x"),
        Draws(0, digest_bytes(b"a"), "y"),
    ]
    drawn = [kind.words(0, 1000) for kind in kinds]
    for number, one in enumerate(drawn):
        for other in drawn[:number]:
            assert np.count_nonzero(one == other) < 3


def test_the_words_are_spread_evenly() -> None:
    words = Draws(7, digest_bytes(b"model"), "weight").words(0, 1 << 16)
    share = words / WORDS
    assert abs(share.mean() - 0.5) < 0.005
    counts = np.bincount((share * 16).astype(int), minlength=16)
    assert (abs(counts - 4096) < 300).all()
    assert abs(np.corrcoef(share[:-1], share[1:])[0, 1]) < 0.02
