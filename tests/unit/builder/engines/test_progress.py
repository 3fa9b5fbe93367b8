"""What a training says of its progress: not too often, with a speed and an end that can be believed."""

from __future__ import annotations

import pytest

from builder.engines.progress import Pace, spell_duration


@pytest.mark.parametrize(
    ("duration_s", "spelt"),
    [
        (-1.0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (130.0, "2 min 10 s"),
        (3600.0, "1 h 00 min"),
        (7500.0, "2 h 05 min"),
        (90000.0, "1 d 01 h"),
    ],
)
def test_durations_in_two_units(duration_s: float, spelt: str) -> None:
    assert spell_duration(duration_s) == spelt


def test_the_first_step_counts_for_nothing_but_its_loss() -> None:
    """It took 100 s, the others a second each."""
    pace = Pace(steps=100, step_tokens=512.0)
    assert pace.line(1, 5.0, 100.0) == "step 1 of 100, loss 5.0000"
    assert pace.line(2, 4.0, 101.0) is None
    assert pace.line(10, 3.0, 109.0) == "step 10 of 100, loss 3.0000, 512 tokens/s, 1 min 30 s left"
    assert pace.line(100, 1.0, 199.0) == "step 100 of 100, loss 1.0000, 512 tokens/s"


def test_no_speed_where_tokens_are_not_known() -> None:
    pace = Pace(steps=100, step_tokens=0)
    pace.line(1, 5.0, 100.0)
    assert pace.line(10, 3.0, 109.0) == "step 10 of 100, loss 3.0000, 1 min 30 s left"


def test_a_resume_counts_its_own_steps() -> None:
    pace = Pace(steps=1000, step_tokens=1000.0, began=500)
    assert pace.line(501, 2.0, 50.0) == "step 501 of 1000, loss 2.0000"
    assert pace.line(600, 2.0, 149.0) == "step 600 of 1000, loss 2.0000, 1,000 tokens/s, 6 min 40 s left"


def test_a_slow_training_says_something_every_half_minute() -> None:
    pace = Pace(steps=1000, step_tokens=10.0)
    said = [step for step in range(1, 51) if pace.line(step, 1.0, 20.0 * step) is not None]
    assert said == [1, *range(3, 50, 2)]
