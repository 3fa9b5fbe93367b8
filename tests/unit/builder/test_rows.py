from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.rows import check_rows, read_rows
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind"}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def faults(path: Path, form: str) -> list[str]:
    with pytest.raises(InvalidError) as caught:
        check_rows(path, form, where="data/rows.jsonl")
    assert {one.file for one in caught.value.faults} == {"data/rows.jsonl"}
    return [f"{one.line} {one.key}: {one.problem} / {one.mend}" for one in caught.value.faults]


@pytest.mark.parametrize(
    ("form", "rows"),
    [
        ("text", [{"text": "a", "source": 3}, {"text": "b"}]),
        ("messages", [{"messages": [USER, ANSWER]}, {"messages": [SYSTEM, USER, ANSWER, USER]}]),
        ("preference", [{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        ("preference", [{"prompt": [SYSTEM, USER], "chosen": [ANSWER], "rejected": [ANSWER, USER, ANSWER]}]),
        ("unpaired", [{"prompt": "a", "completion": "b", "label": False}]),
        ("unpaired", [{"prompt": [USER], "completion": [ANSWER], "label": True}]),
        ("prompts", [{"prompt": "a", "answer": 4}, {"prompt": "b"}]),
        ("prompts", [{"prompt": [USER, ANSWER, USER], "tests": ["x"]}]),
    ],
)
def test_good_rows_come_back_whole(tmp_path: Path, form: str, rows: list[object]) -> None:
    path = write(tmp_path, *rows)
    assert read_rows(path, form) == rows
    assert check_rows(path, form) == len(rows)


@pytest.mark.parametrize(
    ("form", "row", "expected"),
    [
        ("text", {"txt": "a"}, "1 : missing key 'text', found txt / add 'text'"),
        ("text", {}, "1 : missing key 'text', found none / add 'text'"),
        ("text", {"text": 3}, "1 text: expected text, got a number / write text"),
        ("text", {"text": ""}, "1 text: empty text / write text, or take the row out"),
        ("text", ["a"], "1 : expected an object, got a list / write one JSON object a line"),
        ("text", "", "1 : an empty line / take it out"),
        ("text", '{"text": "a", "text": "b"}', "1 : not strict JSON: key 'text' twice in one object / "),
        ("text", '{"text": "a", "n": NaN}', "1 : not strict JSON: NaN is not JSON / "),
        ("text", '{"text": ', "1 : not strict JSON: Expecting value: line 2 column 1 (char 10) / "),
        ("messages", {"messages": []}, "1 messages: expected a list of messages, got an empty list / "),
        ("messages", {"messages": "Hi"}, "1 messages: expected a list of messages, got text / "),
        ("messages", {"messages": [SYSTEM]}, "1 messages: nothing but the system's message / "),
        ("messages", {"messages": [USER]}, "1 messages: no message of the assistant / "),
        ("messages", {"messages": [ANSWER]}, "1 messages[0]: expected a message of the user, got the assistant / "),
        ("messages", {"messages": [USER, USER]}, "1 messages[1]: expected a message of the assistant, got the user / "),
        (
            "messages",
            {"messages": [USER, SYSTEM, ANSWER]},
            "1 messages[1]: expected a message of the assistant, got the system / ",
        ),
        ("messages", {"messages": [USER, "Hello"]}, "1 messages[1]: expected a message, got text / "),
        (
            "messages",
            {"messages": [USER, {"role": "assistant"}]},
            "1 messages[1].content: expected text, got nothing / write text",
        ),
        (
            "messages",
            {"messages": [{"role": "bot", "content": ""}]},
            "1 messages[0].role: unknown role 'bot' / write system, user or assistant",
        ),
        (
            "messages",
            {"messages": [USER, {"role": "assistant", "content": ""}]},
            "1 messages[1].content: empty answer / write it, or take the row out",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": " "}, ANSWER]},
            "1 messages[0].content: empty message of the user / write it, or take the row out",
        ),
        (
            "messages",
            {"messages": [{"role": "system", "content": ""}, USER, ANSWER]},
            "1 messages[0].content: empty message of the system / write it, or take the row out",
        ),
        ("preference", {"prompt": "a", "chosen": "b"}, "1 : missing key 'rejected', found prompt, chosen / "),
        ("preference", {"prompt": "a", "chosen": [ANSWER], "rejected": "c"}, "1 chosen: expected text, got a list / "),
        (
            "preference",
            {"prompt": [USER, ANSWER], "chosen": [ANSWER], "rejected": [ANSWER]},
            "1 prompt: does not end with the user / ",
        ),
        (
            "preference",
            {"prompt": [USER], "chosen": [USER], "rejected": [ANSWER]},
            "1 chosen[0]: expected a message of the assistant, got the user / ",
        ),
        (
            "preference",
            {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER, USER]},
            "1 rejected: does not end with the assistant / ",
        ),
        ("unpaired", {"prompt": "a", "completion": "b"}, "1 : missing key 'label', found prompt, completion / "),
        (
            "unpaired",
            {"prompt": "a", "completion": "b", "label": 1},
            "1 label: expected true or false, got a number / write true for a good completion",
        ),
        ("unpaired", {"prompt": "a", "completion": "", "label": True}, "1 completion: empty text / "),
        (
            "unpaired",
            {"prompt": [USER], "completion": [ANSWER, USER], "label": True},
            "1 completion: does not end with the assistant / ",
        ),
        ("prompts", {"question": "a"}, "1 : missing key 'prompt', found question / "),
        ("prompts", {"prompt": [USER, ANSWER]}, "1 prompt: does not end with the user / "),
    ],
)
def test_a_malformed_row_is_named_by_line_and_key(tmp_path: Path, form: str, row: object, expected: str) -> None:
    found = faults(write(tmp_path, row), form)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_every_faulty_row_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": "a"}, {"text": ""}, {"text": "b"}, "x")
    assert [one.partition(":")[0] for one in faults(path, "text")] == ["2 text", "4 "]


def test_reading_ends_after_twenty_faults(tmp_path: Path) -> None:
    assert len(faults(write(tmp_path, *["x"] * 50), "text")) == 20


def test_one_file_holds_one_form(tmp_path: Path) -> None:
    plain = {"prompt": "a", "chosen": "b", "rejected": "c"}
    turns = {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}
    assert faults(write(tmp_path, plain, turns), "preference") == [
        "2 : a row of messages, but the rows before it hold text / keep one form in a file"
    ]


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert faults(write(tmp_path), "text") == ["0 : no rows in the file / write at least one"]


def test_a_line_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "' + b"a" * (17 << 20) + b'"}')
    assert faults(path, "text")[0] == "1 : a line of more than 16 MiB / split the row"


def test_what_a_row_says_is_not_in_the_error(tmp_path: Path) -> None:
    secret = "hunter2"  # noqa: S105 - stands for one
    path = write(tmp_path, {"text": [secret]}, {"text": {"a": secret}}, f'{{"text": "{secret}"', f'"{secret}"')
    with pytest.raises(InvalidError) as caught:
        check_rows(path, "text")
    assert secret not in str(caught.value)
