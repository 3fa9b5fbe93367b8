"""What a merge leaves in a text that nobody finished."""

from __future__ import annotations

import pytest

from registry.conflict_markers import conflict_line
from registry.errors import InvalidError
from registry.lock import Lock
from registry.record import Record


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("<<<<<<< HEAD\na\n=======\nb\n>>>>>>> other\n", 1),
        ("a\r\nb\r\n<<<<<<< HEAD\r\nc\r\n", 3),
        ("a\n=======\nb\n", 2),
        (b"\xff\n>>>>>>> other\n", 2),
        ("a\n", 0),
        ('{"text": "<<<<<<< HEAD"}\n', 0),
        ("<<<<<<<<\n========\n =======\n", 0),
        ("", 0),
    ],
)
def test_the_line_of_the_first_marker(text: str | bytes, line: int) -> None:
    assert conflict_line(text) == line


def test_a_lock_with_markers_says_how_to_go_on() -> None:
    text = "schema: '2.0'\n<<<<<<< HEAD\nstages: {}\n=======\nstages: {a: {cmd: x}}\n>>>>>>> other\n"
    with pytest.raises(InvalidError) as caught:
        Lock.parse(text, where="models/a/dvc.lock")
    assert str(caught.value) == (
        "a merge left its conflict markers in the lock\n"
        "  where: models/a/dvc.lock\n"
        "  mend: take one side, `git checkout --theirs models/a/dvc.lock`, or after the merge "
        "`git checkout COMMIT models/a/dvc.lock`; then `varietal build`: nothing that was built is lost"
    )


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"{\n<<<<<<< HEAD\n", "a merge left its conflict markers in the record"),
        (b'{"schema": ', "not strict JSON: Expecting value: line 1 column 12 (char 11)"),
    ],
)
def test_a_record_that_cannot_be_read_says_what_puts_it_back(data: bytes, what: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Record.from_bytes(data, where="models/a/records/b.json")
    mend = "`varietal build` puts back the record that the lock names; settle conflicts of the lock itself first"
    assert str(caught.value) == f"{what}\n  where: models/a/records/b.json\n  mend: {mend}"
