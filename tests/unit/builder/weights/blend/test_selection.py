"""The k-th largest against a sort of the whole, in every way that a search can take."""

from __future__ import annotations

from typing import Final

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builder.weights.blend import operands as operands_module
from builder.weights.blend import selection
from builder.weights.blend.operands import Operands, Tile
from builder.weights.blend.selection import Cut, select
from builder.weights.stream import Scratch
from registry.errors import InvalidError
from tests.blending import HeldRows

MODULES: Final = {operands_module: ("TILE", "_SAMPLED_GROUP"), selection: ("_ROOM", "_SMALL", "_SAMPLED_SHARE")}


class Scores:
    """Scores in memory, with the number of passes that were made over them."""

    def __init__(self, *kinds: np.ndarray) -> None:
        self.kinds = kinds
        rows = HeldRows(tensor=torch.from_numpy(kinds[0]), where="model.safetensors", reads=[])
        self.operands = Operands("weight", [rows], None, Scratch())
        self.seen = 0

    def __call__(self, tile: Tile) -> list[np.ndarray]:
        self.seen += tile.stop - tile.start
        return [kind[slice(*tile)].reshape(-1) for kind in self.kinds]

    def select(self, *ranks: tuple[int, ...]) -> list[list[Cut]]:
        return select(self.operands, self, ranks)

    @property
    def passes(self) -> float:
        return self.seen / self.operands.rows


def by_sort(scores: np.ndarray, rank: int) -> Cut:
    """Of equal scores the one of lower index comes first."""
    if rank <= 0:
        return Cut(np.inf, -1)
    flat = scores.reshape(-1)
    last = np.argsort(-flat, kind="stable")[rank - 1]
    return Cut(float(flat[last]), int(last))


@pytest.fixture(params=[(7, 3, 5, 2, 60), (64, 16, 40, 10, 8), (1 << 17, 1 << 11, 1 << 20, 1 << 15, 512)])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tile, group, room, what is small and the sample's share: so small that every way is taken, and as they are."""
    values = iter(request.param)
    monkeypatch.setattr(selection, "_SAMPLE", (4, 1 << 18))
    for module, names in MODULES.items():
        for name in names:
            monkeypatch.setattr(module, name, next(values))


def draw(kind: str, count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    smooth = np.abs(generator.standard_normal(count))
    return {
        "smooth": smooth,
        "steps": np.floor(smooth * 4) / 4,
        "two values": (smooth > 0.5).astype(float),
        "zero": np.zeros(count),
        "mostly zero": np.where(smooth > 2, smooth, 0.0),
        "sorted": np.sort(smooth),
        "tiny and huge": smooth ** np.where(smooth > 1, 300.0, -40.0),
        "lumps": np.repeat(smooth[: -(-count // 50)], 50)[:count],
    }[kind]


KINDS: Final = ("smooth", "steps", "two values", "zero", "mostly zero", "sorted", "tiny and huge", "lumps")


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("kind", KINDS)
def test_the_cut_is_that_of_a_sort(kind: str) -> None:
    for seed, shape in enumerate([(60, 7), (1, 300), (300, 1), (37, 11)]):
        count = shape[0] * shape[1]
        scores = draw(kind, count, seed).reshape(shape)
        for rank in sorted({0, 1, 2, 3, count // 3, count // 2, count - 1, count}):
            assert Scores(scores).select((rank,)) == [[by_sort(scores, rank)]], rank


@pytest.mark.usefixtures("sizes")
def test_several_kinds_and_ranks_are_found_at_once() -> None:
    first, second = draw("steps", 600, 1).reshape(60, 10), draw("smooth", 600, 2).reshape(60, 10)
    found = Scores(first, second).select((10, 500), (0, 77, 600))
    assert found == [[by_sort(first, rank) for rank in (10, 500)], [by_sort(second, rank) for rank in (0, 77, 600)]]


@given(st.lists(st.sampled_from([0.0, 5e-324, 1e-300, 0.5, 1.0, 1.5, 2.0, 1e308]), min_size=1, max_size=60), st.data())
def test_any_scores_and_any_rank(numbers: list[float], data: st.DataObject) -> None:
    scores = np.array(numbers)[:, None]
    rank = data.draw(st.integers(0, len(numbers)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_SAMPLE", (2, 20))
        for module, names in MODULES.items():
            for name in names:
                patch.setattr(module, name, data.draw(st.integers(2, 20), label=name))
        assert Scores(scores).select((rank,)) == [[by_sort(scores, rank)]]


@pytest.mark.parametrize("kind", ["smooth", "steps", "mostly zero"])
def test_one_pass_and_one_tile_are_enough_for_a_large_tensor(kind: str) -> None:
    scores = draw(kind, 1 << 19, 5).reshape(1 << 9, 1 << 10)
    for rank in (5_000, 1 << 18, 400_000):
        source = Scores(scores)
        assert source.select((rank,)) == [[by_sort(scores, rank)]]
        assert source.passes < 2


def test_rows_that_the_sample_misses_cost_a_few_passes_only() -> None:
    """One row in sixteen differs, the others share one value: a guess may be wholly wrong."""
    scores = draw("smooth", 1 << 19, 3).reshape(1 << 10, 1 << 9)
    scores[np.arange(1 << 10) % 16 != 7] = 0.25
    for rank in (1, 1 << 14, 1 << 18, (1 << 19) - 1):
        source = Scores(scores)
        assert source.select((rank,)) == [[by_sort(scores, rank)]]
        assert source.passes < 5


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(strange: float) -> None:
    scores = np.ones((4, 5))
    scores[2, 3] = strange
    with pytest.raises(InvalidError) as caught:
        Scores(scores).select((3,))
    assert caught.value.what == "tensor 'weight' holds NaN or an infinity"
    assert caught.value.where == "model.safetensors"
