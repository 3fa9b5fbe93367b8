"""How a broken batch is named: by the rows of the data, as a person finds them."""

from __future__ import annotations

import pytest

from builder.engines.watch import spell_places, spell_rows


@pytest.mark.parametrize(
    ("rows", "spelt"),
    [
        ([3], "3"),
        ([5, 3, 4, 9, 4], "3-5, 9"),
        ([], ""),
        (list(range(1, 66)), "1-64 and 1 more"),
        (list(range(2, 202, 2)), f"{', '.join(str(number) for number in range(2, 130, 2))} and 36 more"),
    ],
)
def test_rows_as_ranges(rows: list[int], spelt: str) -> None:
    assert spell_rows(rows) == spelt


def test_rows_of_several_files_are_told_by_file() -> None:
    places = ["data/a.jsonl, row 7", "data/a.jsonl, row 8", "data/odd, row 1.jsonl, row 2", "data/b.jsonl, row 1"]
    assert spell_places([4, 2, 1, 1], places) == "rows 7-8 of data/a.jsonl; rows 1 of data/b.jsonl"
    assert spell_places([3], places) == "rows 2 of data/odd, row 1.jsonl"
    assert spell_places([2, 1], ()) == "rows 1-2"
