"""What a training logged, as a table that is short, sorted and the same for the same run."""

from __future__ import annotations

from builder.engines.curve import MOST_POINTS, curve_lines


def entry(step: int, loss: float, **more: float) -> dict[str, float]:
    return {"step": step, "loss": loss, "learning_rate": 0.1 / step, "grad_norm": 1.0, "epoch": 0.5} | more


def test_each_step_has_a_line() -> None:
    assert curve_lines([entry(1, 2.5), entry(2, 1 / 3)]) == (
        "step\tloss\tlearning_rate\tgradient_norm",
        "1\t2.5\t0.1\t1",
        "2\t0.333333\t0.05\t1",
    )


def test_no_step_no_table() -> None:
    assert curve_lines([]) == ()


def test_measurements_stand_at_their_step_and_rewards_in_their_columns() -> None:
    history = [entry(1, 2.0, **{"rewards/accuracies": 0.5, "rewards/margins": -0.25}), entry(2, 1.0)]
    assert curve_lines(history, [(2, 1.5), (3, 1.25)]) == (
        "step\tloss\tlearning_rate\tgradient_norm\treward_accuracy\treward_margin\teval_loss",
        "1\t2\t0.1\t1\t0.5\t-0.25\t",
        "2\t1\t0.05\t1\t\t\t1.5",
        "3\t\t\t\t\t\t1.25",
    )


def test_many_steps_become_few_points_that_keep_the_mean() -> None:
    lines = curve_lines([entry(step, float(step)) for step in range(1, 1001)])
    assert len(lines) == 1 + 250 <= 1 + MOST_POINTS
    assert lines[1] == "4\t2.5\t0.025\t1"
    assert lines[-1].startswith("1000\t998.5\t0.0001\t")
