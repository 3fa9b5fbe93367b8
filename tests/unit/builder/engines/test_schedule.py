from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.engines.schedule import (
    Split,
    by_length,
    choose_split,
    halve_split,
    keep_split,
    kept_split,
    steps_of,
    visit_order,
)
from builder.train_settings import Training
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path


def test_steps_are_as_many_as_the_epochs_take() -> None:
    assert steps_of(Training(epochs=2.0, batch=8), 100) == 25
    assert steps_of(Training(epochs=1.0, batch=8), 101) == 13
    assert steps_of(Training(epochs=0.001, batch=8), 100) == 1
    assert steps_of(Training(steps=7, batch=8), 100) == 7


def split(**changes: int) -> Split:
    wanted = {"batch": 16, "wanted": 0, "row_tokens": 100, "room_tokens": 1000, "threads": 2, "devices": 1} | changes
    row_tokens, room_tokens = wanted.pop("row_tokens"), wanted.pop("room_tokens")
    return choose_split(**wanted, fits=lambda rows: rows * row_tokens <= room_tokens)


def test_the_micro_batch_is_the_largest_divisor_that_fits() -> None:
    assert split() == Split(micro_batch=8, accumulation=2, threads=2)
    assert split(room_tokens=10**6) == Split(micro_batch=16, accumulation=1, threads=2)
    assert split(batch=7) == Split(micro_batch=7, accumulation=1, threads=2)
    assert split(batch=7, room_tokens=699) == Split(micro_batch=1, accumulation=7, threads=2)


def test_one_row_is_tried_even_where_it_seems_too_long() -> None:
    assert split(row_tokens=5000).micro_batch == 1


def test_the_runner_has_the_last_word() -> None:
    assert split(wanted=2, room_tokens=1) == Split(micro_batch=2, accumulation=8, threads=2)


def test_devices_share_a_batch() -> None:
    assert split(devices=4, room_tokens=200) == Split(micro_batch=2, accumulation=2, threads=2, processes=4)


def test_a_micro_batch_that_does_not_divide() -> None:
    with pytest.raises(InvalidError) as caught:
        split(wanted=3)
    assert str(caught.value) == (
        "micro_batch 3 does not divide the 16 rows that one device takes of a batch\n"
        "  where: .varietal/runner.yaml: micro_batch\n"
        "  mend: write a divisor of it, or 0 to let the stage choose"
    )


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(InvalidError) as caught:
        split(devices=3)
    assert str(caught.value) == (
        "a batch of 16 cannot be shared by 3 devices\n  where: train.batch\n  mend: make it a multiple of 3"
    )


def test_a_split_is_remembered(tmp_path: Path) -> None:
    assert kept_split(tmp_path) is None
    keep_split(tmp_path, split())
    assert kept_split(tmp_path) == split()


@pytest.mark.parametrize(
    ("begun", "halves"), [((8, 2), [(4, 4), (2, 8), (1, 16)]), ((7, 1), [(1, 7)]), ((6, 1), [(3, 2), (1, 6)])]
)
def test_a_split_is_halved_down_to_one_row(
    begun: tuple[int, int], halves: list[tuple[int, int]], tmp_path: Path
) -> None:
    """Each half divides the rows of the device, so the global batch stays what it is."""
    keep_split(tmp_path, Split(micro_batch=begun[0], accumulation=begun[1], threads=2))
    found = []
    while (smaller := halve_split(tmp_path)) is not None:
        assert kept_split(tmp_path) == smaller
        found.append((smaller.micro_batch, smaller.accumulation))
    assert found == halves
    last = kept_split(tmp_path)
    assert last is not None
    assert last.halved == (begun[0], *(size for size, _ in halves[:-1]))


def test_there_is_nothing_to_halve_before_a_split(tmp_path: Path) -> None:
    assert halve_split(tmp_path) is None


def test_a_split_from_before_the_later_keys_is_read(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text('{"accumulation":2,"micro_batch":4,"threads":1}')
    assert kept_split(tmp_path) == Split(micro_batch=4, accumulation=2, threads=1)


@given(rows=st.integers(1, 40), visits=st.integers(0, 200), seed=st.integers(0, 5))
def test_every_row_comes_once_before_any_comes_again(rows: int, visits: int, seed: int) -> None:
    order = visit_order(rows, visits=visits, seed=seed)
    assert len(order) == visits
    counts = Counter(order)
    assert max(counts.values(), default=0) - (min(counts.values()) if len(counts) == rows else 0) <= 1
    assert order == visit_order(rows, visits=visits, seed=seed)


def test_the_seed_and_the_epoch_change_the_order() -> None:
    first, again = visit_order(50, visits=100, seed=1)[:50], visit_order(50, visits=100, seed=1)[50:]
    assert first != again
    assert first != visit_order(50, visits=50, seed=2)
    assert sorted(first) == sorted(again) == list(range(50))


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30), batch=st.integers(1, 8))
def test_sorting_by_length_stays_within_a_batch(lengths: list[int], batch: int) -> None:
    order = visit_order(len(lengths), visits=len(lengths), seed=0)
    result = by_length(order, lengths, batch=batch)
    for start in range(0, len(order), batch):
        mine = result[start : start + batch]
        assert sorted(mine) == sorted(order[start : start + batch])
        assert [lengths[row] for row in mine] == sorted((lengths[row] for row in mine), reverse=True)
