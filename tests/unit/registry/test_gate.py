"""Checks held against records: each bound on both sides, and everything that is missing."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from registry.gate import judge
from tests.repositories import make_record

RECORDS = {
    "score": make_record(
        "support:score",
        metrics={
            "loss": {"value": 1.5, "against": 1.25},
            "accuracy": {"value": 0.5},
            "rise": {"value": 2, "against": 1},
        },
    )
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """As a manifest has it."""

    metric: str
    stage: str = "score"
    min: float | None = None
    max: float | None = None
    max_increase: float | None = None
    max_decrease: float | None = None


@pytest.mark.parametrize(
    ("check", "passed", "bound"),
    [
        (Check(metric="accuracy", min=0.5), True, "at least 0.5"),
        (Check(metric="accuracy", min=0.51), False, "at least 0.51"),
        (Check(metric="accuracy", max=0.5), True, "at most 0.5"),
        (Check(metric="accuracy", max=0.49), False, "at most 0.49"),
        (Check(metric="accuracy", min=0.4, max=0.6), True, "at least 0.4 and at most 0.6"),
        (Check(metric="accuracy", min=0.6, max=0.7), False, "at least 0.6 and at most 0.7"),
        (Check(metric="loss", max_increase=0.25), True, "at most 0.25 above the one before"),
        (Check(metric="loss", max_increase=0.2), False, "at most 0.2 above the one before"),
        (Check(metric="loss", max_increase=0.0), False, "at most 0 above the one before"),
        (Check(metric="loss", max_decrease=0.0), True, "at most 0 below the one before"),
        (Check(metric="rise", max_decrease=-1.0), True, "at most -1 below the one before"),
        (Check(metric="rise", max_decrease=-1.5), False, "at most -1.5 below the one before"),
        (Check(metric="accuracy", max_increase=1.0), False, "at most 1 above the one before"),
        (Check(metric="nothing", min=0.0), False, "at least 0"),
        (Check(metric="accuracy", stage="other", min=0.0), False, "at least 0"),
        (Check(metric="accuracy"), False, ""),
    ],
)
def test_a_bound(check: Check, passed: bool, bound: str) -> None:  # noqa: FBT001
    (judgement,) = judge([check], RECORDS)
    assert (judgement.passed, judgement.bound) == (passed, bound)


def test_a_judgement_says_what_was_measured() -> None:
    first, second, third = judge(
        [Check(metric="loss", max_increase=0.2), Check(metric="accuracy", min=0.6), Check(metric="f1", min=0.6)],
        RECORDS,
    )
    assert first.reason == "loss of score is 1.5, 1.25 before; it must be at most 0.2 above the one before"
    assert (first.value, first.against) == (1.5, 1.25)
    assert second.reason == "accuracy of score is 0.5; it must be at least 0.6"
    assert third.reason == "f1 of score was not measured; it must be at least 0.6"
    assert (third.value, third.against) == (None, None)


def test_what_is_not_a_number_holds_no_bound() -> None:
    records = {"score": make_record("support:score", metrics={"loss": {"value": float("nan"), "against": 1.0}})}
    checks = [Check(metric="loss", **{bound: 1e9}) for bound in ("max", "max_increase", "max_decrease")]
    assert not any(judgement.passed for judgement in judge([*checks, Check(metric="loss", min=-1e9)], records))


def test_no_checks_fail_and_an_empty_list_passes() -> None:
    (judgement,) = judge(None, RECORDS)
    assert not judgement.passed
    assert judgement.reason == "the manifest has no checks: write some, or `checks: []` to release without"
    assert judge([], RECORDS) == ()
