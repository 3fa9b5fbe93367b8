from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from builder.mixture import draw, quotas
from builder.row_keys import is_held_out, row_key


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0.01, 100)), min_size=1, max_size=6))
def test_an_epoch_has_as_many_rows_as_all_sets(sets: list[tuple[int, float]]) -> None:
    sizes, weights = [size for size, _ in sets], [weight for _, weight in sets]
    found = quotas(sizes, weights)
    assert all(one >= 1 for one in found)
    exact = [sum(sizes) * weight / sum(weights) for weight in weights]
    assert all(abs(one - share) < 1 or one == 1 for one, share in zip(found, exact, strict=True))
    if all(share >= 1 for share in exact):
        assert sum(found) == sum(sizes)


def test_parts_are_those_of_the_weights() -> None:
    assert quotas([10, 30], [1, 1]) == [20, 20]
    assert quotas([10, 30], [3, 1]) == [30, 10]
    assert quotas([5, 5, 5], [1, 1, 1]) == [5, 5, 5]
    assert quotas([1, 1, 2], [1, 1, 1]) == [2, 1, 1]  # the first of those with equal remainders
    assert quotas([100, 1], [1, 1e-6]) == [101, 1]


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 5))
def test_rows_are_repeated_as_evenly_as_can_be(size: int, quota: int, seed: int) -> None:
    found = draw(size, quota, seed=seed, label="x")
    assert len(found) == quota
    counts = Counter(found)
    assert set(counts) <= set(range(size))
    fewest = quota // size
    assert set(counts.values()) <= {fewest, fewest + 1}
    assert found == draw(size, quota, seed=seed, label="x")


def test_a_draw_is_another_with_another_seed_or_set() -> None:
    assert draw(50, 20, seed=0, label="x") != draw(50, 20, seed=1, label="x")
    assert draw(50, 20, seed=0, label="x") != draw(50, 20, seed=0, label="y")


def test_rows_are_one_where_only_case_and_space_differ() -> None:
    assert row_key("text", {"text": "A  b\n"}) == row_key("text", {"text": "a B", "source": 1})
    asked = {"role": "user", "content": "Hi"}
    one = {"messages": [asked, {"role": "assistant", "content": "x"}]}
    assert row_key("messages", one) == row_key("messages", {"messages": [{**asked, "name": "ada"}, one["messages"][1]]})
    assert row_key("messages", one) != row_key("messages", {"messages": [asked, {"role": "assistant", "content": "y"}]})
    assert row_key("preference", {"prompt": [asked], "chosen": 1}) == row_key("unpaired", {"prompt": [asked]})


def test_what_is_held_out_is_told_by_the_row_alone() -> None:
    keys = [row_key("text", {"text": f"row {number}"}) for number in range(4000)]
    held = [key for key in keys if is_held_out(key, 0.1)]
    assert 320 < len(held) < 480
    assert set(held) <= {key for key in keys if is_held_out(key, 0.2)}  # a larger share holds out more, and the same
