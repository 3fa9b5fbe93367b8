"""What became of a build."""

from __future__ import annotations

from builder.drive.outcome import Outcome, Report, tail
from builder.edges import Address

A, B, C = (Address(variant="v", stage=name) for name in "abc")
GOOD = Outcome(address=A, became="ran", duration_s=1.25, log=".varietal/logs/v/a.log", tries=1)
BAD = Outcome(address=B, became="failed", exit_code=3, reason="a flipped byte", duration_s=2, log="b.log", tries=1)
LOST = Outcome(address=C, became="skipped", reason="it needs v:b")


def test_the_first_failure_is_the_exit_code() -> None:
    other = Outcome(address=C, became="failed", exit_code=8, reason="x")
    assert Report(outcomes=(GOOD,)).exit_code == 0
    assert Report(outcomes=(GOOD, BAD, other)).exit_code == 3
    assert Report(outcomes=()).exit_code == 0


def test_bytes_that_stay_here_are_a_failure_of_the_build() -> None:
    assert Report(outcomes=(GOOD,), unpushed="no network", push_code=6).exit_code == 6
    assert Report(outcomes=(BAD,), unpushed="no network", push_code=6).exit_code == 3


def test_a_build_that_was_ended_says_so_as_a_shell_does() -> None:
    assert Report(outcomes=(BAD,), stopped_by=2).exit_code == 130
    assert Report(outcomes=(), stopped_by=15).exit_code == 143


def test_lines() -> None:
    assert GOOD.line() == "ran      v:a  1.2 s"
    assert BAD.line() == "FAILED   v:b  after 2.0 s: a flipped byte"
    assert LOST.line() == "skipped  v:c  it needs v:b"
    assert Report(outcomes=(GOOD, BAD, LOST), pushed=3).lines() == ["1 ran, 1 failed, 1 skipped; 3 files pushed"]
    assert Report(outcomes=()).lines() == ["nothing to build"]


def test_failures_are_told_with_the_end_of_their_log() -> None:
    report = Report(outcomes=(BAD,), unpushed="no network")
    text = "".join(f"line {number}\n" for number in range(40))
    lines = report.failures([(BAD, text)])
    assert lines[:2] == ["", "FAILED   v:b  after 2.0 s: a flipped byte"]
    assert lines[2] == "  | line 28"
    assert lines[-3:] == ["  log: b.log", "", "not pushed: no network"]


def test_of_a_bar_its_last_state_is_told() -> None:
    assert tail("  1%\r 50%\r100%\n\n\nend\n") == ["100%", "end"]


def test_json() -> None:
    assert Report(outcomes=(GOOD, BAD, LOST)).to_json() == {
        "stages": [
            {"stage": "v:a", "became": "ran", "exit_code": 0, "reason": None, "duration_s": 1.25,
             "log": ".varietal/logs/v/a.log"},
            {"stage": "v:b", "became": "failed", "exit_code": 3, "reason": "a flipped byte", "duration_s": 2,
             "log": "b.log"},
            {"stage": "v:c", "became": "skipped", "exit_code": 0, "reason": "it needs v:b", "duration_s": 0.0,
             "log": None},
        ],
        "stopped": False,
        "pushed_files": 0,
        "unpushed": None,
    }  # fmt: skip
