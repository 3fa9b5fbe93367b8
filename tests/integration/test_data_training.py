"""Trainings on mixed, normalised and held-out data: what is learnt, measured, kept, and the same again after a kill."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from builder.engines.evaluation import best_step
from builder.stages.dpo import dpo
from builder.stages.sft import sft
from registry.errors import InvalidError
from tests.integration import training

if TYPE_CHECKING:
    from pathlib import Path

    from builder.stage import Context, Input, Outcome


class Killed(BaseException):
    """Stands for a kill: nothing catches it on its way out."""


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> Path:
    return tiny_llama


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    training.write_rows(folder)
    return folder


def of(path: Path, role: str = "data", form: str = "", **settings: float) -> Input:
    found = training.data_input(path)
    return replace(found, role=role, format=form or found.format, settings=settings)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def note(outcome: Outcome, part: str) -> str:
    return next((one for one in outcome.notes if part in one), "")


def test_completions_and_alpaca_are_learnt_as_they_would_be_as_messages(base: Path, tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "the colour of the sky ?"}]
    said = {"role": "assistant", "content": "the sky is blue"}
    shapes = {
        "messages": [{"messages": [*asked, said]}],
        "completion": [{"prompt": asked, "completion": [said]}],
        "alpaca": [{"instruction": asked[0]["content"], "output": said["content"]}],
        "sharegpt": [
            {
                "conversations": [
                    {"from": "human", "value": asked[0]["content"]},
                    {"from": "gpt", "value": said["content"]},
                ]
            }
        ],
    }
    sums = set()
    for name, rows in shapes.items():
        path = write(tmp_path / f"{name}.jsonl", rows * 4)
        context = training.context(
            training.sft_stage(training.lora(), steps=2),
            [training.model_input("from", base), of(path)],
            tmp_path / name,
        )
        sft(context)
        sums.add(str(trained(context.out)))
    assert len(sums) == 1


def trained(folder: Path) -> dict[str, list[float]]:
    """The tensors alone: the digest of the data is in the file, too."""
    from safetensors.torch import load_file  # noqa: PLC0415 - beside torch

    return {name: one.flatten().tolist() for name, one in load_file(folder / "adapter_model.safetensors").items()}


def test_a_mixture_says_what_it_drew(base: Path, data: Path, tmp_path: Path) -> None:
    few = write(tmp_path / "messages.jsonl", [json.loads((data / "messages.jsonl").read_text().splitlines()[0])])
    inputs = [
        training.model_input("from", base),
        of(data / "messages.jsonl", weight=4.0),
        replace(of(few, weight=1.0), name="few"),
    ]
    outcome = sft(training.context(training.sft_stage(training.lora(), steps=2), inputs, tmp_path / "mixed"))
    assert note(outcome, "few:") == "few: its 1 rows, each 5 times, make up its part of an epoch, 5 rows"
    assert note(outcome, "messages:") == "messages: 20 of its 24 rows make up its part of an epoch"


def held(kind: str, base: Path, data: Path, folder: Path, **train: float | str) -> Context[Any]:
    """A training on nine tenths of the rows, measured on the rest."""
    form = {"sft": "messages", "dpo": "preference"}[kind]
    make = {"sft": training.sft_stage, "dpo": training.dpo_stage}[kind]
    settings = {"steps": 8, "eval_steps": 1, "keep": "best", "learning_rate": {"sft": 0.1, "dpo": 0.3}[kind]} | train
    return training.context(
        make(training.lora(), **settings),
        [training.model_input("from", base), of(data / f"{form}.jsonl", held_out=0.3)],
        folder,
        checkpoint_steps=3,
        micro_batch=2,
    )


@pytest.mark.parametrize("kind", ["sft", pytest.param("dpo", marks=pytest.mark.slow)])
def test_the_best_weights_are_kept_also_after_a_kill(kind: str, base: Path, data: Path, tmp_path: Path) -> None:
    run = {"sft": sft, "dpo": dpo}[kind]
    whole = held(kind, base, data, tmp_path / "whole")
    lines: list[str] = []
    outcome = run(replace(whole, say=lines.append))
    measured = [
        (int(line.split()[1].rstrip(":")), float(line.rpartition(" ")[2])) for line in lines if "held-out rows" in line
    ]
    assert [step for step, _ in measured] == [1, 2, 3, 4, 5, 6, 7, 8]
    best = best_step(measured)
    assert best < 8, "the rate is meant to be so high that the last step is not the best"
    assert note(outcome, "lowest loss") == f"the weights are those of step {best}, the lowest loss on held-out rows"
    assert outcome.metrics["eval_loss"]["value"] == pytest.approx(dict(measured)[best], abs=1e-4)

    last = run(held(kind, base, data, tmp_path / "last", keep="last"))
    assert training.sums(tmp_path / "last" / "out") != training.sums(whole.out)
    assert last.metrics["eval_loss"]["value"] == pytest.approx(dict(measured)[8], abs=1e-4)

    for moment in ("step 4: loss", "step 7: loss"):
        killed = held(kind, base, data, tmp_path / moment.partition(":")[0])

        def die(line: str, moment: str = moment) -> None:
            if line.startswith(moment):
                raise Killed

        with pytest.raises(Killed):
            run(replace(killed, say=die))
        again = run(killed)
        assert note(again, "resumed from the checkpoint of step") != ""
        assert training.sums(killed.out) == training.sums(whole.out)


def test_a_training_ends_where_nothing_is_won_any_more(base: Path, data: Path, tmp_path: Path) -> None:
    settings = {"steps": 40, "early_stopping": 2, "keep": "last", "learning_rate": 0.5}
    whole = held("sft", base, data, tmp_path / "whole", **settings)
    outcome = sft(whole)
    steps = int(outcome.metrics["steps"]["value"])
    assert 2 < steps < 40
    assert note(outcome, "no new low") == f"ended after step {steps} of 40: the loss on held-out rows found no new low"
    killed = held("sft", base, data, tmp_path / "killed", **settings)

    def die(line: str) -> None:
        if line.startswith(f"step {steps}: loss"):
            raise Killed

    with pytest.raises(Killed):
        sft(replace(killed, say=die))
    assert sft(killed).metrics == outcome.metrics
    assert training.sums(killed.out) == training.sums(whole.out)


def test_what_is_learnt_is_not_measured_on(base: Path, data: Path, tmp_path: Path) -> None:
    inputs = [training.model_input("from", base), of(data / "messages.jsonl"), of(data / "messages.jsonl", "eval")]
    with pytest.raises(InvalidError, match=r"messages.jsonl:1: the row is learnt, too: messages.jsonl, row 1"):
        sft(training.context(training.sft_stage(training.lora()), inputs, tmp_path))


def changed(base: Path, folder: Path, name: str, **keys: object) -> Path:
    """A copy of a model folder with some keys of one of its files set, or taken out."""
    shutil.copytree(base, folder)
    path = folder / name
    table = json.loads(path.read_text())
    for key, value in keys.items():
        table.pop(key, None)
        if value is not None:
            table[key] = value
    path.write_text(json.dumps(table))
    return folder


def try_out(kind: str, base: Path, data: Path, folder: Path) -> Outcome:
    """A short training of a new adapter."""
    form = {"sft": "messages", "dpo": "preference"}[kind]
    stage = {"sft": training.sft_stage, "dpo": training.dpo_stage}[kind](training.lora(), steps=1)
    inputs = [training.model_input("from", base), of(data / f"{form}.jsonl")]
    return {"sft": sft, "dpo": dpo}[kind](training.context(stage, inputs, folder))


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_tokenizer_without_an_end_is_refused_and_one_without_padding_is_not(
    kind: str, base: Path, data: Path, tmp_path: Path
) -> None:
    endless = changed(base, tmp_path / "endless", "tokenizer_config.json", eos_token=None)
    with pytest.raises(InvalidError) as caught:
        try_out(kind, endless, data, tmp_path / "one")
    assert (caught.value.what, caught.value.where) == (
        "the tokenizer has no end token, so answers cannot be ended",
        str(endless),
    )
    unpadded = changed(base, tmp_path / "unpadded", "tokenizer_config.json", pad_token=None)
    assert try_out(kind, unpadded, data, tmp_path / "two").metrics["steps"]["value"] == 1.0


def test_a_model_with_fewer_rows_than_its_tokenizer_has_tokens_is_refused(
    base: Path, data: Path, tmp_path: Path
) -> None:
    small = changed(base, tmp_path / "small", "config.json", vocab_size=40)
    with pytest.raises(InvalidError, match=r"the tokenizer has tokens up to number \d+, the model has rows for 40"):
        try_out("sft", small, data, tmp_path / "one")


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_rows_that_are_all_cut_away_are_refused_before_a_step(
    kind: str, base: Path, data: Path, tmp_path: Path
) -> None:
    form = {"sft": "messages", "dpo": "preference"}[kind]
    stage = {"sft": training.sft_stage, "dpo": training.dpo_stage}[kind](training.lora(), max_length=8)
    context = training.context(stage, [training.model_input("from", base), of(data / f"{form}.jsonl")], tmp_path / "x")
    with pytest.raises(InvalidError, match=r"max_length|fill 8 tokens|within 8 tokens"):
        {"sft": sft, "dpo": dpo}[kind](context)
    assert list(context.work.glob("checkpoint-*")) == []
