"""Which task may start, and on which slot."""

from __future__ import annotations

import pytest

from builder.drive.schedule import Schedule, Task
from builder.edges import Address


def at(name: str) -> Address:
    return Address(variant="v", stage=name)


def task(name: str, *needs: str, twin: str = "", weight_s: float = 1.0) -> Task:
    return Task(address=at(name), needs=frozenset(map(at, needs)), twin=twin, weight_s=weight_s)


def taken(schedule: Schedule, now_s: float = 0.0) -> list[tuple[str, int]]:
    return [(one.address.stage, slot) for one, slot in schedule.take(now_s)]


def test_what_is_ready_starts_as_far_as_slots_are_free() -> None:
    schedule = Schedule([task("a"), task("b"), task("c"), task("d", "a")], slots=2)
    assert taken(schedule) == [("a", 0), ("b", 1)]  # `a` first: `d` hangs on it
    assert taken(schedule) == []
    schedule.succeed(at("b"))
    assert taken(schedule) == [("c", 1)]
    schedule.succeed(at("a"))
    assert taken(schedule) == [("d", 0)]


def test_nothing_starts_before_all_that_it_needs() -> None:
    schedule = Schedule([task("a"), task("b"), task("c", "a", "b")], slots=3)
    assert taken(schedule) == [("a", 0), ("b", 1)]
    schedule.succeed(at("a"))
    assert taken(schedule) == []
    schedule.succeed(at("b"))
    assert taken(schedule) == [("c", 0)]
    assert not schedule.is_over
    schedule.succeed(at("c"))
    assert schedule.is_over


def test_what_the_longest_rest_hangs_on_starts_first() -> None:
    schedule = Schedule(
        [task("short"), task("long", weight_s=9), task("head"), task("tail", "head", weight_s=20)], slots=2
    )
    assert [name for name, _ in taken(schedule)] == ["head", "long"]


def test_a_failure_stops_what_depends_on_it_and_nothing_else() -> None:
    schedule = Schedule(
        [task("a"), task("b"), task("c", "a"), task("d", "c"), task("e", "b"), task("f", "d", "e")], slots=2
    )
    schedule.take(0)
    assert [one.stage for one in schedule.fail(at("a"))] == ["c", "d", "f"]
    schedule.succeed(at("b"))
    assert taken(schedule) == [("e", 0)]
    schedule.succeed(at("e"))
    assert schedule.is_over


def test_what_needs_two_that_fail_is_lost_once() -> None:
    schedule = Schedule([task("a"), task("b"), task("c", "a", "b")], slots=2)
    schedule.take(0)
    assert [one.stage for one in schedule.fail(at("a"))] == ["c"]
    assert schedule.fail(at("b")) == ()
    assert schedule.is_over


def test_twins_never_run_beside_each_other() -> None:
    schedule = Schedule([task("a", twin="x"), task("b", twin="x"), task("c", twin="y"), task("d")], slots=4)
    assert [name for name, _ in taken(schedule)] == ["a", "c", "d"]
    schedule.succeed(at("a"))
    assert [name for name, _ in taken(schedule)] == ["b"]


def test_a_twin_of_one_that_failed_is_tried() -> None:
    schedule = Schedule([task("a", twin="x"), task("b", twin="x")], slots=2)
    schedule.take(0)
    assert schedule.fail(at("a")) == ()
    assert [name for name, _ in taken(schedule)] == ["b"]


def test_what_is_postponed_waits_for_its_time_and_gives_its_slot_away() -> None:
    schedule = Schedule([task("a"), task("b")], slots=1)
    schedule.take(0)
    schedule.postpone(at("a"), until_s=5)
    assert taken(schedule, 1) == [("b", 0)]
    schedule.succeed(at("b"))
    assert taken(schedule, 4) == []
    assert not schedule.is_over
    assert taken(schedule, 5) == [("a", 0)]


def test_a_build_that_is_ended_starts_nothing_more() -> None:
    schedule = Schedule([task("a"), task("b", "a"), task("c")], slots=1)
    schedule.take(0)
    assert {one.stage for one in schedule.drop_waiting()} == {"b", "c"}
    assert schedule.running == (at("a"),)
    assert schedule.fail(at("a")) == ()
    assert schedule.is_over


def test_no_tasks_are_over_at_once() -> None:
    assert Schedule([], slots=1).is_over


@pytest.mark.parametrize("tasks", [[task("a", "b"), task("b", "a")], [task("a", "gone")]])
def test_tasks_that_can_never_start_are_an_error_of_the_caller(tasks: list[Task]) -> None:
    with pytest.raises(ValueError, match="tasks that can never start: v:a"):
        Schedule(tasks, slots=1)
