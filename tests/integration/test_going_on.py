"""Continued pre-training, and the loss of dynamic fine-tuning: for real, on a tiny model."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from builder.stages.packing import join_texts
from builder.stages.pretrain import pretrain
from builder.stages.sft import sft
from builder.stages.tokens import encode_messages
from builder.train_settings import PretrainTraining
from builder.train_stages import PretrainStage
from registry.errors import InvalidError
from tests.integration import training

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.adapter_settings import LoraSettings
    from builder.stage import Outcome


@pytest.fixture(scope="module", autouse=True)
def _own_variables() -> Iterator[None]:
    """A stage sets variables of its process; here that process goes on to other tests."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    training.write_rows(folder)
    return folder


def stage_of(adapter: LoraSettings | None = None, targets: object = None, **train: Any) -> PretrainStage:  # noqa: ANN401
    """A stage of a few steps."""
    own = PretrainTraining(**({"steps": 3, "batch": 2, "learning_rate": 1e-2, "max_length": 32} | train))
    return PretrainStage(
        from_="from", data={"data": 1.0}, adapter=adapter, targets=training.selector(targets), train=own
    )


def run(
    folder: Path, source: Path, data: Path, stage: PretrainStage, *, under: Path | None = None, **runner: int
) -> Outcome:
    inputs = [training.model_input("from", source), training.data_input(data / "text.jsonl")]
    inputs += [] if under is None else [training.model_input("base", under)]
    return pretrain(training.context(stage, inputs, folder, **runner))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def value(outcome: Outcome, label: str) -> float:
    return outcome.metrics[label]["value"]


def test_only_the_chosen_components_change(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path, tiny_llama, data, stage_of(targets=["embedding", "norm.final"]))
    before, after = tensors(tiny_llama), tensors(tmp_path / "out")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "model.embed_tokens.weight",
        "model.norm.weight",
    }
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tiny_llama / name).read_bytes()
    assert outcome.type == "model"
    assert {(one.change, one.by) for one in outcome.components} == {("overridden", "pretrain")}


def test_an_adapter_is_new_and_then_goes_on(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    first = run(tmp_path / "new", tiny_llama, data, stage_of(training.lora("mlp", dropout=0.0)))
    assert first.type == "adapter"
    again = run(tmp_path / "again", tmp_path / "new" / "out", data, stage_of(), under=tiny_llama)
    assert again.type == "adapter"
    before, after = tensors(tmp_path / "new" / "out"), tensors(tmp_path / "again" / "out")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_texts_are_laid_end_to_end(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    """The loss of a step over every sequence is the mean over all their tokens but the first of each."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    texts = [json.loads(line)["text"] for line in (data / "text.jsonl").read_text().splitlines()]
    pieces = join_texts(tokenizer, texts, max_length=32, where="data").examples
    ids = torch.tensor([piece.input_ids for piece in pieces])
    with torch.no_grad():
        wanted = float(model(ids, labels=ids).loss)
    outcome = run(tmp_path, tiny_llama, data, stage_of(steps=1, batch=len(pieces)))
    assert value(outcome, "train_loss") == pytest.approx(wanted, abs=1e-5)
    assert value(outcome, "tokens") == 32 * len(pieces)


@pytest.mark.slow
def test_the_loss_is_measured_on_texts_that_are_held_out(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text('{"text": "the wheel turns and the miller grinds corn by the river all day and all night"}\n' * 4)
    rows = replace(training.data_input(data / "text.jsonl"), path=held, role="eval", source="data:held.jsonl")
    inputs = [training.model_input("from", tiny_llama), training.data_input(data / "text.jsonl"), rows]
    outcome = pretrain(training.context(stage_of(targets="mlp", eval_steps=1, keep="best"), inputs, tmp_path / "on"))
    assert value(outcome, "eval_loss") > 0
    new = training.pretrain_stage(max_length=16, eval_steps=2)
    assert value(pretrain(training.context(new, inputs[1:], tmp_path / "new")), "eval_loss") > 0


def test_it_resumes_to_the_same_bytes(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    stage = stage_of(training.lora(), steps=6)
    run(tmp_path / "whole", tiny_llama, data, stage)
    run(tmp_path / "again", tiny_llama, data, stage, checkpoint_steps=2)
    shutil.rmtree(tmp_path / "again" / "work" / "checkpoint-6")
    outcome = run(tmp_path / "again", tiny_llama, data, stage, checkpoint_steps=2)
    assert "resumed from the checkpoint of step 4" in outcome.notes
    assert training.sums(tmp_path / "again" / "out") == training.sums(tmp_path / "whole" / "out")


@pytest.mark.slow
def test_a_sequence_longer_than_the_model_reads(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        run(tmp_path, tiny_llama, data, stage_of(max_length=256))
    assert caught.value.what == "the longest row has 256 tokens within max_length, the model reads at most 128"


def test_dynamic_fine_tuning_weighs_tokens_by_their_probability(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    rows = [json.loads(line)["messages"] for line in (data / "messages.jsonl").read_text().splitlines()]
    total, count = 0.0, 0
    for example in encode_messages(tokenizer, rows, assistant_only=True, max_length=64, where="data").examples:
        labels = torch.tensor(example.labels)[1:]
        with torch.no_grad():
            logits = model(torch.tensor([example.input_ids])).logits[0, :-1].log_softmax(-1)
        found = logits[labels >= 0].gather(1, labels[labels >= 0, None])
        total, count = total - float((found * found.exp()).sum()), count + len(found)
    stage = training.sft_stage(training.lora(dropout=0.0), steps=1, batch=24, loss="dft")
    inputs = [training.model_input("from", tiny_llama), training.data_input(data / "messages.jsonl")]
    outcome = sft(training.context(stage, inputs, tmp_path))
    assert value(outcome, "train_loss") == pytest.approx(total / count, rel=1e-4)
