from __future__ import annotations

from builder.engines.evaluation import best_step, has_stalled, interval, measured_losses
from builder.train_settings import SftTraining


def test_a_tenth_of_the_steps_lies_between_two_measurements() -> None:
    assert [interval(SftTraining(), steps) for steps in (1, 9, 10, 105)] == [1, 1, 1, 10]
    assert interval(SftTraining(eval_steps=7), 1000) == 7


def test_measurements_are_told_from_the_log() -> None:
    log = [{"step": 1, "loss": 3.0}, {"step": 1, "eval_loss": 2.0, "eval_runtime": 1.0}, {"step": 2, "eval_loss": 1.5}]
    assert measured_losses(log) == [(1, 2.0), (2, 1.5)]
    assert measured_losses([]) == []


def test_the_best_is_the_lowest_and_the_first_of_equals() -> None:
    assert best_step([(1, 3.0), (2, 1.0), (3, 1.0), (4, 2.0)]) == 2


def test_a_training_stalls_where_as_many_measurements_bring_nothing_new() -> None:
    falling = [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert not has_stalled(falling, 1)
    assert not has_stalled([*falling, (4, 1.5)], 2)
    assert has_stalled([*falling, (4, 1.5)], 1)
    assert has_stalled([*falling, (4, 1.5), (5, 1.0)], 2)  # as low as before is no new low
    assert not has_stalled([*falling, (4, 1.5), (5, 0.9)], 2)
    assert not has_stalled([*falling, (4, 9.0)] * 5, 0)
    assert not has_stalled([(1, 1.0)], 1)
    assert not has_stalled([], 3)
