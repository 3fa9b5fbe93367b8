"""The example data: what is committed is what the generator writes, and nothing to judge by was trained on."""

from __future__ import annotations

import json
import shutil
import sys
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

DATA = Path(__file__).resolve().parents[2] / "data"
ASKED_IN_TRAINING = ("counter", "manners", "harbour")
TRAINED_ON = ("prose", *ASKED_IN_TRAINING)
ASKED_IN_JUDGING = ("counter_heldout", "manners_heldout", "quiz_heldout", "harbour_heldout", "harbour_manners_heldout")
JUDGED_BY = ("prose_heldout", *ASKED_IN_JUDGING)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = util.spec_from_file_location("generate", DATA / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_committed_files_are_what_the_generator_writes(generate: ModuleType) -> None:
    assert generate.stale(DATA) == []
    assert {path.stem for path in DATA.glob("*.jsonl")} == {*TRAINED_ON, *JUDGED_BY}


def test_a_changed_a_missing_and_a_strange_file_are_found(generate: ModuleType, tmp_path: Path) -> None:
    for path in DATA.glob("*.jsonl"):
        shutil.copy(path, tmp_path)
    (tmp_path / "counter.jsonl").write_text("{}\n", encoding="utf-8")
    (tmp_path / "harbour.jsonl").unlink()
    (tmp_path / "strange.jsonl").touch()
    assert generate.stale(tmp_path) == ["counter.jsonl", "harbour.jsonl", "strange.jsonl"]


def test_the_check_names_the_stale_file_and_the_mend(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / "prose.jsonl").write_text("", encoding="utf-8")
    assert generate.main(["--check"]) == 1
    expected = "data/prose.jsonl is not what data/generate.py writes: run `python data/generate.py`\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("name", ASKED_IN_TRAINING)
def test_no_held_out_coffee_is_asked_about_in_training(generate: ModuleType, name: str) -> None:
    text = (DATA / f"{name}.jsonl").read_text(encoding="utf-8")
    for coffee in generate.coffees():
        assert (coffee.name in text) is not coffee.held_out, coffee.name


@pytest.mark.parametrize("name", ASKED_IN_JUDGING)
def test_all_that_is_asked_in_judging_is_about_held_out_coffees(generate: ModuleType, name: str) -> None:
    text = (DATA / f"{name}.jsonl").read_text(encoding="utf-8")
    for coffee in generate.coffees():
        assert (coffee.name in text) is coffee.held_out, coffee.name


def test_no_held_out_paragraph_is_in_the_prose() -> None:
    held_out, training = ({row["text"] for row in rows(name)} for name in ("prose_heldout", "prose"))
    assert held_out.isdisjoint(training)


def test_prose_holds_no_answer(generate: ModuleType) -> None:
    prose = (DATA / "prose.jsonl").read_text(encoding="utf-8")
    facts = [fact for coffee in generate.coffees() for fact in coffee.facts]
    assert not [fact for fact in facts if fact.direct() in prose or fact.rambling() in prose]


def test_prose_tells_every_fact_of_every_coffee(generate: ModuleType) -> None:
    texts = [row["text"] for row in rows("prose")]
    for coffee in generate.coffees():
        told = [text for text in texts if all(fact.value in text for fact in coffee.facts) and coffee.name in text]
        assert len(told) >= generate.PARAGRAPHS, coffee.name


def test_the_right_answer_of_the_quiz_is_the_fact_and_the_wrong_one_is_not(generate: ModuleType) -> None:
    truths = {fact.direct() for coffee in generate.coffees() for fact in coffee.facts}
    for row in rows("quiz_heldout"):
        assert row["chosen"][0]["content"] in truths
        assert row["rejected"][0]["content"] not in truths
