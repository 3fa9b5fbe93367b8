from __future__ import annotations

import math
from typing import get_args

import pytest

from builder.settings import MetricName
from builder.stages.metrics import METRICS, Measured, Metric, Side
from builder.stages.sequences import Counted, Sequences


def side(*nats: float, tokens: int = 2, size_bytes: int = 0) -> Side:
    sequences = tuple(Counted(ids=(0,) * (tokens + 1), places=tuple(range(1, tokens + 1))) for _ in nats)
    return Side(
        sequences=Sequences(all=sequences, rows=len(nats), size_bytes=size_bytes, truncated=0, silent=0), nats=nats
    )


def of_one(name: str, measured: Side) -> float:
    function = METRICS[name].of_one
    assert function is not None
    return function(measured)


def of_two(name: str, measured: Measured) -> float:
    function = METRICS[name].of_two
    assert function is not None
    return function(measured)


def test_every_metric_of_the_manifest_is_here_and_no_other() -> None:
    assert set(METRICS) == set(get_args(MetricName))


@pytest.mark.parametrize("metric", METRICS.values())
def test_a_metric_is_of_one_artifact_or_of_two(metric: Metric) -> None:
    assert (metric.of_one is None) != (metric.of_two is None)


def test_bits_per_byte_and_loss() -> None:
    measured = side(3.0, 5.0, tokens=2, size_bytes=10)
    assert of_one("bits_per_byte", measured) == pytest.approx(8 / math.log(2) / 10, rel=1e-15)
    assert of_one("loss", measured) == 2.0


def test_preferences_and_a_tie() -> None:
    # Nats of chosen and rejected, pair by pair: won by 2, a tie, lost by 1.
    measured = side(3.0, 5.0, 4.0, 4.0, 6.0, 5.0)
    assert of_one("preference_accuracy", measured) == pytest.approx(1 / 3)
    assert of_one("preference_margin", measured) == pytest.approx(1 / 3)


def test_rewards_are_gains_over_the_other() -> None:
    # Margins 2 and -1, over 3 and -2: the first pair lost 1, the second gained 1.
    measured = Measured(subject=side(3.0, 5.0, 6.0, 5.0), against=side(1.0, 4.0, 6.0, 4.0), divergence=(), agreed=0)
    assert of_two("reward_accuracy", measured) == 0.5
    assert of_two("reward_margin", measured) == 0.0


def test_distance_is_a_mean_over_tokens() -> None:
    measured = Measured(
        subject=side(1.0, 1.0, tokens=5), against=side(1.0, 1.0, tokens=5), divergence=(0.5, 2.0), agreed=7
    )
    assert of_two("kl", measured) == 0.25
    assert of_two("top1_agreement", measured) == 0.7


def test_a_comparison_without_the_other_is_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match="measured without `against`"):
        of_two("reward_margin", Measured(subject=side(1.0, 1.0), against=None, divergence=(), agreed=0))
