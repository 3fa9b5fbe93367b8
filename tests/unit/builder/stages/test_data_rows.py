from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from builder.runner import Runner
from builder.stage import Context, Input
from builder.stages.data_rows import DataRows, evaluation_rows, training_rows
from registry.digest import digest_file
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

SHARE = "take it out of one of them; `eval: {share: 0.05}` holds out rows of chat itself"


def data(folder: Path, name: str, texts: list[str], form: str = "text", role: str = "data", **settings: float) -> Input:
    path = folder / f"{name}.jsonl"
    key = {"text": "text", "prompts": "prompt"}[form]
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts), encoding="utf-8")
    return Input(
        role=role,
        name=name,
        path=path,
        digest=digest_file(path),
        artifact=None,
        format=form,
        settings=settings,
        source=f"data:data/{name}.jsonl",
    )


def context(folder: Path, *inputs: Input, seed: int = 0) -> Context[Any]:
    settings = SimpleNamespace(train=SimpleNamespace(seed=seed))
    return Context(
        settings=settings, inputs=inputs, work=folder, out=folder, root=folder, runner=Runner(), say=lambda _: None
    )


def texts(rows: DataRows | None) -> list[str]:
    assert rows is not None
    return [str(row["text"]) for row in rows.rows]


def test_one_set_is_read_as_it_stands(tmp_path: Path) -> None:
    found = training_rows(context(tmp_path, data(tmp_path, "chat", ["a", "b"])))
    assert (texts(found), found.format, found.source, found.notes) == (["a", "b"], "text", "data:data/chat.jsonl", ())
    assert found.places == ["data/chat.jsonl, row 1", "data/chat.jsonl, row 2"]
    assert evaluation_rows(context(tmp_path, data(tmp_path, "chat", ["a"]))) is None


def test_sets_are_mixed_by_weight_and_it_is_said_how(tmp_path: Path) -> None:
    one = data(tmp_path, "large", [f"l{number}" for number in range(16)], weight=1.0)
    other = data(tmp_path, "small", [f"s{number}" for number in range(4)], weight=1.0)
    found = training_rows(context(tmp_path, one, other))
    assert len(found.rows) == 20
    assert len({text for text in texts(found) if text.startswith("l")}) == 10
    assert [texts(found).count(f"s{number}") in {2, 3} for number in range(4)] == [True] * 4
    assert sorted(found.notes) == [
        "large: 10 of its 16 rows make up its part of an epoch",
        "small: its 4 rows, each 2 times, 2 of them once more, make up its part of an epoch, 10 rows",
    ]
    assert sorted(found.source.split(", ")) == ["data:data/large.jsonl", "data:data/small.jsonl"]
    for text, place in zip(texts(found), found.places, strict=True):
        name = "large" if text.startswith("l") else "small"
        assert place == f"data/{name}.jsonl, row {int(text[1:]) + 1}"
    assert texts(training_rows(context(tmp_path, one, other))) == texts(found)
    assert texts(training_rows(context(tmp_path, one, other, seed=1))) != texts(found)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 3.0)])
def test_the_order_of_the_sets_decides_nothing(tmp_path: Path, weights: tuple[float, float]) -> None:
    rows = [f"row {number}" for number in range(40)]
    one = data(tmp_path, "one", rows, weight=weights[0], held_out=0.3)
    other = data(tmp_path, "other", [f"other {row}" for row in rows], weight=weights[1], held_out=0.3)
    there, back = context(tmp_path, one, other), context(tmp_path, other, one)
    assert training_rows(there) == training_rows(back)
    assert evaluation_rows(there) == evaluation_rows(back)


def test_the_weight_orders_the_same_rows(tmp_path: Path) -> None:
    rows = [f"row {number}" for number in range(16)]
    one, other = data(tmp_path, "one", rows, weight=1.0), data(tmp_path, "other", rows, weight=3.0)
    assert texts(training_rows(context(tmp_path, one, other))) == texts(training_rows(context(tmp_path, other, one)))


def test_a_share_is_held_out_and_more_rows_move_none(tmp_path: Path) -> None:
    rows = [f"row {number}" for number in range(400)]
    before = context(tmp_path, data(tmp_path, "chat", rows, held_out=0.1))
    learnt, held = texts(training_rows(before)), texts(evaluation_rows(before))
    assert sorted(learnt + held) == sorted(rows)
    assert 20 < len(held) < 60
    after = context(tmp_path, data(tmp_path, "chat", [f"new {number}" for number in range(50)] + rows, held_out=0.1))
    assert [text for text in texts(evaluation_rows(after)) if text.startswith("row")] == held
    assert {text for text in texts(training_rows(after)) if text.startswith("row")} == set(learnt)


def test_rows_that_are_learnt_and_measured_on_are_named(tmp_path: Path) -> None:
    learnt = data(tmp_path, "chat", ["a", "b", "c"])
    held = data(tmp_path, "held", ["x", " B", "y", "a"], role="eval")
    with pytest.raises(InvalidError) as caught:
        training_rows(context(tmp_path, learnt, held))
    assert [str(one) for one in caught.value.faults] == [
        f"data/held.jsonl:2: the row is learnt, too: data/chat.jsonl, row 2\n  mend: {SHARE}",
        f"data/held.jsonl:4: the row is learnt, too: data/chat.jsonl, row 1\n  mend: {SHARE}",
    ]


def test_a_prompt_that_is_learnt_is_not_measured_on(tmp_path: Path) -> None:
    learnt = data(tmp_path, "chat", ["a?"], "prompts")
    held = data(tmp_path, "held", ["A?"], "prompts", role="eval")
    with pytest.raises(InvalidError, match=r"held.jsonl:1: the row is learnt, too: data/chat.jsonl, row 1"):
        training_rows(context(tmp_path, learnt, held))


def test_the_rows_named_are_not_without_end(tmp_path: Path) -> None:
    rows = [f"row {number}" for number in range(100)]
    with pytest.raises(InvalidError) as caught:
        training_rows(context(tmp_path, data(tmp_path, "chat", rows), data(tmp_path, "held", rows, role="eval")))
    assert len(caught.value.faults) == 20


def test_sets_apart_are_learnt_and_measured_on(tmp_path: Path) -> None:
    both = context(tmp_path, data(tmp_path, "chat", ["a"]), data(tmp_path, "held", ["b"], role="eval"))
    assert (texts(training_rows(both)), texts(evaluation_rows(both))) == (["a"], ["b"])


def test_a_split_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    few = context(tmp_path, data(tmp_path, "chat", ["a"], held_out=0.000001))
    with pytest.raises(InvalidError) as caught:
        evaluation_rows(few)
    assert (caught.value.what, caught.value.where) == ("no row is held out", "data:data/chat.jsonl")
    with pytest.raises(InvalidError) as caught:
        training_rows(context(tmp_path, data(tmp_path, "chat", ["a"], held_out=1.0)))
    assert (caught.value.what, caught.value.where) == ("every row is held out", "data/chat.jsonl")


def test_prompts_of_two_forms_are_not_mixed(tmp_path: Path) -> None:
    plain = data(tmp_path, "plain", ["a?"], "prompts", weight=1.0)
    chat = data(tmp_path, "chat", ["b?"], "prompts", weight=1.0)
    more = data(tmp_path, "more", ["c?"], "prompts", weight=1.0)
    assert len(training_rows(context(tmp_path, plain, more)).rows) == 2
    chat.path.write_text(json.dumps({"prompt": [{"role": "user", "content": "b?"}]}) + "\n", encoding="utf-8")
    with pytest.raises(InvalidError) as caught:
        training_rows(context(tmp_path, plain, chat))
    assert caught.value.what == "prompts are texts in one place and messages in another"
    assert caught.value.where == "data/plain.jsonl, row 1; data/chat.jsonl, row 1"
