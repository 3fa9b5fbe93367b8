"""Preferences as whole sequences: labels on the answers alone, ends cut, the order of training."""

from __future__ import annotations

from builder.engines.pairs import held_out, sequences
from builder.stages.tokens import Pair


def pair(prompt: tuple[int, ...], chosen: tuple[int, ...], rejected: tuple[int, ...]) -> Pair:
    return Pair(text={}, prompt=prompt, chosen=chosen, rejected=rejected)


PAIRS = (pair((1, 2), (3, 4), (5,)), pair((6,), (7,), (8, 9, 10, 11)))


def test_labels_are_on_the_answers_and_ends_are_cut() -> None:
    first, second, again = sequences(PAIRS, [1, 0, 1], max_length=4).to_list()
    assert first == again
    assert first["rejected_input_ids"] == [6, 8, 9, 10]
    assert first["rejected_labels"] == [-100, 8, 9, 10]
    assert first["chosen_input_ids"] == [6, 7]
    assert second["chosen_labels"] == [-100, -100, 3, 4]
    assert second["chosen_attention_mask"] == [1, 1, 1, 1]


def test_rows_that_are_held_out_begin_with_the_longest() -> None:
    rows = held_out(PAIRS, max_length=64)
    assert rows is not None
    assert [row["chosen_input_ids"][0] for row in rows.to_list()] == [6, 1]
    assert held_out((), max_length=64) is None
    assert held_out(None, max_length=64) is None
