"""Whether compiling pays: steps that grow with the lengths that occur, and shrink with the work in a step."""

from __future__ import annotations

import pytest

from builder.engines.compiling import LENGTHS, is_compiled, pays_after

ONE_BILLION = {"layers": 22, "width": 2048}


def test_a_larger_step_pays_sooner() -> None:
    small = pays_after(**ONE_BILLION, step_tokens=8192, lengths=[1024])
    assert 200 < small < 600  # 20 s against 60 ms a step, as measured
    assert pays_after(**ONE_BILLION, step_tokens=2 * 8192, lengths=[1024]) == pytest.approx(small / 2, abs=1)


def test_every_padded_length_is_compiled_anew() -> None:
    same = pays_after(**ONE_BILLION, step_tokens=8192, lengths=[LENGTHS - 1, LENGTHS])
    assert same == pays_after(**ONE_BILLION, step_tokens=8192, lengths=[LENGTHS])
    other = pays_after(**ONE_BILLION, step_tokens=8192, lengths=[LENGTHS, LENGTHS + 1])
    assert other == pytest.approx(2 * same, abs=1)


@pytest.mark.parametrize(
    ("wanted", "able", "steps", "compiled"),
    [
        ("auto", True, 101, True),
        ("auto", True, 100, False),
        ("auto", False, 10**6, False),
        ("always", True, 1, True),
        ("always", False, 1, False),
        ("never", True, 10**6, False),
    ],
)
def test_the_runner_has_the_last_word_where_it_can_be_done(
    wanted: str, steps: int, *, able: bool, compiled: bool
) -> None:
    assert is_compiled(wanted, able=able, steps=steps, pays=100) is compiled  # type: ignore[arg-type]
