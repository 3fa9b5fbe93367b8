from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.row_shapes import FORMATS, normal_format
from builder.rows import check_rows, read_rows
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind"}
MISSING = "add it, or name another `format`"


def write(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("form", "row", "expected"),
    [
        ("alpaca", {"instruction": "Hi", "output": "Hello"}, {"messages": [USER, ANSWER]}),
        (
            "alpaca",
            {"instruction": "Hi", "input": "", "output": "Hello", "id": 4},
            {"id": 4, "messages": [USER, ANSWER]},
        ),
        ("alpaca", {"instruction": "Hi", "input": None, "output": "Hello"}, {"messages": [USER, ANSWER]}),
        (
            "alpaca",
            {"instruction": "Sum", "input": "1 2", "output": "3", "system": "Be kind"},
            {
                "messages": [
                    SYSTEM,
                    {"role": "user", "content": "Sum\n\n1 2"},
                    {"role": "assistant", "content": "3"},
                ]
            },
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "id": "a"},
            {"id": "a", "messages": [USER, ANSWER]},
        ),
        (
            "sharegpt",
            {
                "conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello"}],
                "system": "Be kind",
            },
            {"messages": [SYSTEM, USER, ANSWER]},
        ),
        (
            "openai",
            {
                "messages": [
                    {"role": "developer", "content": "Be kind"},
                    {
                        "role": "user",
                        "name": "ada",
                        "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}],
                    },
                    {"role": "assistant", "content": "Hello", "refusal": None, "tool_calls": [], "weight": 1},
                ]
            },
            {"messages": [SYSTEM, USER, ANSWER]},
        ),
        (
            "preference-chats",
            {"prompt": "Hi", "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "No"}], "score": 9},
            {"score": 9, "prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "No"}]},
        ),
    ],
)
def test_a_shape_becomes_its_format(tmp_path: Path, form: str, row: object, expected: object) -> None:
    assert read_rows(write(tmp_path, row), form) == [expected]
    assert normal_format(form) in FORMATS


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_is_its_own(form: str) -> None:
    assert normal_format(form) == form


@pytest.mark.parametrize(
    ("form", "row", "expected"),
    [
        ("alpaca", {"instruction": "Hi"}, f"1 : missing key 'output' / {MISSING}"),
        ("alpaca", {"prompt": "Hi", "output": "x"}, f"1 : missing key 'instruction' / {MISSING}"),
        ("alpaca", {"instruction": "", "output": "x"}, "1 instruction: empty text / write what is asked, or "),
        ("alpaca", {"instruction": "Hi", "output": ""}, "1 messages[1].content: empty answer / "),
        (
            "alpaca",
            {"instruction": "Hi", "output": "x", "history": [["a", "b"]]},
            "1 history: earlier turns, which this shape has no place for / write `format: messages`",
        ),
        ("sharegpt", {"messages": [USER]}, "1 : missing key 'conversations' / add it, or name another `format`"),
        ("sharegpt", {"conversations": []}, "1 conversations: expected a list, got an empty list / "),
        ("sharegpt", {"conversations": [USER]}, f"1 conversations[0]: missing key 'from' / {MISSING}"),
        (
            "sharegpt",
            {"conversations": [{"from": "function_call", "value": "{}"}]},
            "1 conversations[0].from: unknown speaker 'function_call' / write system, human or gpt; ",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "gpt", "value": "Hello"}]},
            "1 messages[0]: expected a message of the user, got the assistant / ",
        ),
        (
            "openai",
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]},
            "1 messages[1].tool_calls: more than text / take the row out; only what is said in text is learnt",
        ),
        (
            "openai",
            {"messages": [USER, {**ANSWER, "weight": 0}]},
            "1 messages[1].weight: an answer that must not be learnt / take `weight` out, or the row; ",
        ),
        (
            "openai",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER]},
            "1 messages[0].content[0]: a part that is no text / take the row out; only text is learnt",
        ),
        ("openai", {"messages": [USER, ANSWER], "tools": [{}]}, "1 tools: rows with tools are not rendered / "),
        (
            "preference-chats",
            {"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]},
            "1 rejected: the two conversations do not differ / take the row out",
        ),
        (
            "preference-chats",
            {"chosen": [USER, ANSWER], "rejected": [ANSWER]},
            "1 rejected: the two conversations begin unlike each other / begin both with the same prompt",
        ),
        (
            "preference-chats",
            {"prompt": "Ho", "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "No"}]},
            "1 prompt: is not what both conversations ask / correct it, or take it out",
        ),
        ("completion", {"prompt": "a"}, "1 : missing key 'completion', found prompt / add 'completion'"),
        ("completion", {"prompt": "a", "completion": [ANSWER]}, "1 completion: expected text, got a list / write text"),
    ],
)
def test_what_a_shape_cannot_say_is_refused_by_line_and_key(
    tmp_path: Path, form: str, row: object, expected: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        check_rows(write(tmp_path, row), form, where="data/rows.jsonl")
    found = [f"{one.line} {one.key}: {one.problem} / {one.mend}" for one in caught.value.faults]
    assert len(found) == 1
    assert found[0].startswith(expected)
