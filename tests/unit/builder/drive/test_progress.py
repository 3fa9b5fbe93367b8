"""The view of a build."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from builder.drive.outcome import Outcome
from builder.drive.progress import Lines, Screen, Seen
from builder.edges import Address

if TYPE_CHECKING:
    from pathlib import Path

A = Address(variant="v", stage="a")


def test_a_log_of_ci_has_a_line_for_each_start_and_end(tmp_path: Path) -> None:
    said: list[str] = []
    view = Lines(said.append)
    view.started(A, "was never built")
    view.show([Seen(address=A, since_s=1, log=tmp_path / "a", device="")], 3)
    view.ended(Outcome(address=A, became="ran", duration_s=3))
    view.close()
    assert said == ["start    v:a  was never built", "ran      v:a  3.0 s"]


def test_a_terminal_shows_what_runs_below_what_has_ended(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("begin\nstep 1\rstep 2 \x1b[31mred\n\n")
    stream = io.StringIO()
    view = Screen(stream)
    view.show([Seen(address=A, since_s=61, log=log, device="1")], 2)
    assert stream.getvalue() == "\r\x1b[J    1:01 v:a gpu 1  step 2 [31mred\n  2 waiting\n"
    stream.truncate(0)
    stream.seek(0)
    view.ended(Outcome(address=A, became="ran", duration_s=3))
    assert stream.getvalue() == "\x1b[2A\r\x1b[Jran      v:a  3.0 s\n"
    stream.truncate(0)
    stream.seek(0)
    view.close()
    assert stream.getvalue() == "\r\x1b[J"


def test_a_log_that_is_not_there_yet_is_shown_empty(tmp_path: Path) -> None:
    stream = io.StringIO()
    Screen(stream).show([Seen(address=A, since_s=0, log=tmp_path / "gone", device="")], 0)
    assert stream.getvalue() == "\r\x1b[J    0:00 v:a  \n"


def test_words_of_a_stage_steer_no_terminal() -> None:
    stream = io.StringIO()
    view = Screen(stream)
    view.note("bad \x1b[2J\x07 note\nsecond")
    view.ended(Outcome(address=A, became="failed", exit_code=8, reason="\x1b]0;title\x07"))
    assert "\x1b" not in stream.getvalue().replace("\r\x1b[J", "")
    assert "\x07" not in stream.getvalue()
    assert stream.getvalue().splitlines()[2] == "second"
