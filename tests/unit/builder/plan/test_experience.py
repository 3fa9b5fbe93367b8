from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from builder.plan.experience import expected_duration_s, expected_size_bytes, work
from registry.action import Action
from registry.artifact import Artifact
from registry.digest import digest_bytes
from registry.record import ArtifactSummary
from tests.repositories import make_record

if TYPE_CHECKING:
    from registry.record import Record


def _record(duration_s: float, *, size_bytes: int = 100, device: str = "cpu", **train: Any) -> Record:  # noqa: ANN401
    record = make_record("a:b")
    artifact = Artifact(type="report", files=(), tensors=())
    summary = replace(
        ArtifactSummary.of(artifact), size_bytes=size_bytes, digest=digest_bytes(str(duration_s).encode())
    )
    action = Action(kind="sft", recipe=1, settings={"train": {**train}}, inputs=())
    return replace(record, duration_s=duration_s, artifact=summary, device=device, action=action)


def test_the_same_again_takes_as_long() -> None:
    own = _record(100.0, steps=10, batch=2, max_length=8)
    assert expected_duration_s(own.action.settings, own, []) == (100.0, None)


def test_twice_the_steps_take_twice_as_long() -> None:
    own = _record(100.0, steps=10, batch=2, max_length=8)
    assert expected_duration_s({"train": {"steps": 20, "batch": 2, "max_length": 8}}, own, [own]) == (200.0, None)


def test_the_spread_is_that_of_others_like_it() -> None:
    own = _record(100.0, steps=10)
    others = [_record(seconds, steps=10) for seconds in (90.0, 110.0, 130.0)]
    duration_s, spread_s = expected_duration_s(own.action.settings, own, others)
    assert duration_s == 100.0
    assert spread_s == pytest.approx(14.8, abs=0.1)  # the median distance is 10 s


def test_another_card_and_another_size_tell_nothing() -> None:
    own = _record(100.0, steps=10)
    others = [_record(5.0, steps=10, device="NVIDIA H100"), _record(900.0, steps=10, size_bytes=10**9)]
    assert expected_duration_s(own.action.settings, own, others) == (100.0, None)


def test_a_new_stage_is_told_by_its_kind() -> None:
    others = [_record(seconds, steps=10) for seconds in (90.0, 100.0, 170.0)]
    assert expected_duration_s({"train": {"steps": 5}}, None, others)[0] == 50.0
    assert expected_size_bytes(None, others) == 100


def test_steps_and_epochs_are_not_compared() -> None:
    own = _record(100.0, epochs=2.0)
    assert expected_duration_s({"train": {"steps": 5}}, own, [own]) == (None, None)
    assert expected_duration_s({"train": {"epochs": 4.0}}, own, [own]) == (200.0, None)


def test_nothing_is_known_of_nothing() -> None:
    assert expected_duration_s({}, None, []) == (None, None)
    assert expected_size_bytes(None, []) is None
    assert work({}) == work({"dtype": "float16"}) == 1.0
