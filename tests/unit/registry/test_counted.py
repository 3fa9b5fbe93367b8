"""Numbers of things in words."""

from __future__ import annotations

import pytest

from registry.counted import counted


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("stage",), "0 stages"),
        (1, ("stage",), "1 stage"),
        (2, ("stage",), "2 stages"),
        (1, ("copy is", "copies are"), "1 copy is"),
        (3, ("copy is", "copies are"), "3 copies are"),
    ],
)
def test_one_is_not_called_several(count: int, words: tuple[str, ...], said: str) -> None:
    assert counted(count, *words) == said
