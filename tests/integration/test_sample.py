"""`varietal sample`: rows of a stage as the model will see them, before anything is built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.address import Address
from builder.sample import sample_stage
from builder.sample_text import as_json, as_lines
from builder.sources import folder_pin
from registry.errors import InvalidError, NotFoundError
from tests.integration import training

if TYPE_CHECKING:
    from builder.sample import Sampled

MANIFEST = """
schema: 1
base: tiny
data:
  chat: {path: data/messages.jsonl, format: messages}
  more: {path: data/more.json, format: alpaca}
  pairs: {path: data/preference.jsonl, format: preference}
  prose: {path: data/text.jsonl, format: text}
stages:
  grown: {kind: pretrain, data: prose, network: {layers: 1, hidden_size: 16, heads: 2}}
  tone:
    kind: sft
    from: base
    data: {chat: 1, more: 3}
    eval: {share: 0.2}
    adapter: {type: lora}
    train: {max_length: 64}
  more: {kind: pretrain, from: base, data: prose, adapter: {type: lora}, train: {max_length: 16}}
  short: {kind: sft, from: base, data: chat, adapter: {type: lora}, train: {max_length: 24}}
  toned: {kind: fold, from: base, adapters: {tone: 1.0}}
  pref: {kind: dpo, from: toned, data: pairs, adapter: {type: lora}, train: {max_length: 64}}
release: toned
checks: []
"""
PARAMS = """
bases: {{tiny: {{path: given/tiny, sha256: "{sha256}"}}}}
recipes: {{import: 1, pretrain: 1, sft: 1, dpo: 1, fold: 1}}
"""


@pytest.fixture(scope="module")
def root(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    (root / "data").mkdir()
    training.write_rows(root / "data")
    rows = [
        {"instruction": "the colour of it ?", "input": town, "output": f"{town} is blue"} for town in training.TOWNS
    ]
    (root / "data" / "more.json").write_text(json.dumps(rows))
    shutil.copytree(tiny_llama, root / "given" / "tiny")
    (root / "models" / "chat").mkdir(parents=True)
    (root / "models" / "chat" / "model.yaml").write_text(MANIFEST)
    (root / "params.yaml").write_text(PARAMS.format(sha256=folder_pin(root / "given" / "tiny").hex))
    return root


def sampled(root: Path, stage: str, *, count: int = 3, held_out: bool = False) -> Sampled:
    address = Address(variant="chat", stage=stage)
    return sample_stage(root, address, count=count, held_out=held_out, say=lambda _: None)


def test_a_mixture_is_shown_with_where_each_row_is_from(root: Path) -> None:
    found = as_json(sampled(root, "tone", count=100))
    assert isinstance(found, dict)
    assert (found["kind"], found["tokenizer"], found["format"], found["marks"]) == (
        "sft",
        "bases:tiny",
        "messages",
        True,
    )
    places = [one["places"][0] for one in found["samples"]]  # type: ignore[index, union-attr, call-overload]
    assert len(places) == found["rows"] == found["sequences"]
    files = [place.partition(",")[0] for place in places]
    assert set(files) == {"data/messages.jsonl", "data/more.json"}
    assert 0.7 < files.count("data/more.json") / len(files) < 0.8
    assert [note.partition(":")[0] for note in found["notes"]] == ["chat", "more"]  # type: ignore[union-attr]


def test_what_is_learnt_stands_between_marks_or_in_colour(root: Path) -> None:
    lines = list(as_lines(sampled(root, "short", count=1), colour=False))
    assert lines[0] == "chat:short (sft): 24 rows of messages, tokenizer of bases:tiny"
    assert lines[1] == "24 sequences; chat template that marks the assistant's turns; learnt: ⟦like this⟧"
    first = next(number for number, line in enumerate(lines) if line.startswith("data/messages.jsonl, row 1: "))
    body = "\n".join(lines[first + 1 :])
    assert "⟦" in body
    assert "colour" in body.partition("⟦")[0]
    assert "Arden" in body.partition("⟦")[2]
    coloured = list(as_lines(sampled(root, "short", count=1), colour=True))
    assert "\n".join(coloured[first + 1 :]).replace("\x1b[32m", "⟦").replace("\x1b[0m", "⟧") == body


def test_rows_of_data_steer_no_terminal(root: Path) -> None:
    path = root / "data" / "messages.jsonl"
    kept = path.read_text()
    row = [{"role": "user", "content": "\x1b[2Jhi"}, {"role": "assistant", "content": "\x1b]0;x\x07ho"}]
    path.write_text(json.dumps({"messages": row}) + "\n")
    try:
        text = "\n".join(as_lines(sampled(root, "short", count=1), colour=True))
    finally:
        path.write_text(kept)
    assert text.replace("\x1b[32m", "").replace("\x1b[0m", "").count("\x1b") == 0


def test_a_preference_is_shown_as_both_sequences_of_a_stage_that_is_not_built(root: Path) -> None:
    found = sampled(root, "pref", count=1)
    chosen, rejected = found.samples.samples
    assert (chosen.part, rejected.part) == ("chosen", "rejected")
    assert chosen.places == rejected.places == ("data/preference.jsonl, row 1",)
    assert [run.learnt for run in chosen.runs] == [False, True]
    assert chosen.runs[0] == rejected.runs[0]
    assert "Arden is red" in chosen.runs[1].text
    assert "yes of course" in rejected.runs[1].text
    assert str(found.model) == "bases:tiny"  # toned is a fold, with the tokenizer of its base


def test_texts_laid_end_to_end_are_shown_so(root: Path) -> None:
    found = sampled(root, "more", count=2).samples
    first, second = found.samples
    assert (first.tokens, first.learnt, second.tokens) == (16, 16, 16)
    assert first.places[0] == "data/text.jsonl, row 1"
    assert second.places[0] in {first.places[-1], "data/text.jsonl, row 2"}


def test_what_is_cut_is_counted(root: Path) -> None:
    found = sampled(root, "short").samples
    assert found.notes
    assert all("max_length" in note for note in found.notes)


def test_held_out_rows_are_others(root: Path) -> None:
    learnt = {place for one in sampled(root, "tone", count=100).samples.samples for place in one.places}
    held = {place for one in sampled(root, "tone", count=100, held_out=True).samples.samples for place in one.places}
    assert held
    assert not learnt & held
    with pytest.raises(NotFoundError) as caught:
        sampled(root, "short", held_out=True)
    assert caught.value.what == "the stage holds no rows out"


def test_stages_without_rows_are_refused(root: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        sampled(root, "toned")
    assert caught.value.what == "chat:toned is of kind fold"
    with pytest.raises(InvalidError) as caught:
        sampled(root, "grown")
    assert caught.value.mend.endswith("one that makes a new model makes its tokenizer, too")
    with pytest.raises(NotFoundError):
        sampled(root, "nothing")


def test_the_verb_prints_json(root: Path) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("varietal")), "sample", "chat", "short", "--rows", "2", "--json"],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sorted(found) == [
        "format",
        "kind",
        "marks",
        "notes",
        "rows",
        "samples",
        "sequences",
        "stage",
        "template",
        "tokenizer",
    ]
    assert sorted(found["samples"][0]) == ["learnt", "part", "places", "runs", "tokens"]
    assert len(found["samples"]) == 2
