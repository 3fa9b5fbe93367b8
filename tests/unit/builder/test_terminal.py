"""What verbs print: nothing of a manifest or a record of others steers the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.terminal import answer, say

if TYPE_CHECKING:
    import pytest


def test_an_answer_shows_what_would_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    answer(json=False, value=None, lines=["stages.tone.description: \x1b[2J -> é", "next"])
    assert capsys.readouterr().out == "stages.tone.description: \\x1b[2J -> é\nnext\n"


def test_an_error_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say("what \x1b]0;title\x07\n  where: here\n  mend: so")
    assert capsys.readouterr().err == "what \\x1b]0;title\\x07\n  where: here\n  mend: so\n"
