"""Training for real, on a tiny model: what is trained, against what, and that the same run gives the same bytes."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig, OPTForCausalLM

from builder.stages.dpo import dpo
from builder.stages.pretrain import pretrain
from builder.stages.sft import sft
from builder.stages.tokens import encode_messages
from registry.errors import InvalidError, MachineError
from registry.provenance import Provenance
from registry.safetensors import read_header
from tests.integration import training

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.manifest import DpoStage, SftStage
    from builder.stage import Outcome
    from tests.conftest import MakeModel

ROOT = Path(__file__).parents[2]
LN_2 = math.log(2)


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


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> Path:
    return tiny_llama


@pytest.fixture(scope="module")
def adapter(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that is far from doing nothing."""
    folder = tmp_path_factory.mktemp("adapter")
    run_sft(folder, base, data, training.sft_stage(training.lora(), learning_rate=0.05))
    return folder / "out"


def run_sft(
    folder: Path, base: Path, data: Path, stage: SftStage, *, under: Path | None = None, **runner: int
) -> Outcome:
    inputs = [training.model_input("from", base), training.data_input(data / "messages.jsonl")]
    inputs += [] if under is None else [training.model_input("base", under)]
    return sft(training.context(stage, inputs, folder, **runner))


def run_dpo(
    folder: Path, base: Path, data: Path, stage: DpoStage, *, under: Path | None = None, **runner: int
) -> Outcome:
    inputs = [training.model_input("from", base), training.data_input(data / "preference.jsonl")]
    inputs += [] if under is None else [training.model_input("base", under)]
    return dpo(training.context(stage, inputs, folder, **runner))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def value(outcome: Outcome, label: str) -> float:
    return outcome.metrics[label]["value"]


def reason(outcome: Outcome) -> list[tuple[str, str, str, int, str]]:
    return [(one.component, one.change, one.layers, one.tensors, one.by) for one in outcome.components]


# Adapters


def test_a_new_adapter_is_a_plain_peft_folder(base: Path, data: Path, tmp_path: Path) -> None:
    stage = training.sft_stage(training.lora("attention.query", "attention.value", "mlp.up"))
    outcome = run_sft(tmp_path, base, data, stage)

    assert sorted(training.sums(tmp_path / "out")) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "up_proj", "v_proj"]
    assert config["layers_to_transform"] is None
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8.0, 0.1)
    assert (config["peft_type"], config["task_type"], config["inference_mode"]) == ("LORA", "CAUSAL_LM", True)
    assert config["base_model_name_or_path"] == ""
    assert {str(tensor.dtype) for tensor in tensors(tmp_path / "out").values()} == {"torch.float32"}
    assert outcome.type == "adapter"
    assert {one.path for one in outcome.written} == {"adapter_config.json", "adapter_model.safetensors"}
    assert reason(outcome) == [
        ("attention.query", "added", "0-1", 4, "sft"),
        ("attention.value", "added", "0-1", 4, "sft"),
        ("mlp.up", "added", "0-1", 4, "sft"),
    ]
    assert outcome.depends_on == ("device", "versions", "micro-batch", "threads")
    assert outcome.micro_batch == 4
    assert value(outcome, "steps") == 4.0

    from peft import PeftModel  # noqa: PLC0415 - as a user would

    with pytest.warns(FutureWarning):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "out"))
    with torch.no_grad():
        ids = torch.arange(10)[None]
        assert not torch.equal(model(ids).logits, AutoModelForCausalLM.from_pretrained(base)(ids).logits)


def test_an_adapter_on_some_layers_says_so(base: Path, data: Path, tmp_path: Path) -> None:
    adapter = training.lora(targets=training.selector({"components": ["mlp"], "layers": "1"}))
    outcome = run_sft(tmp_path, base, data, training.sft_stage(adapter, steps=1))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "gate_proj", "up_proj"]
    assert config["layers_to_transform"] == [1]
    assert {one.layers for one in outcome.components} == {"1"}
    assert all(".layers.1.mlp." in name for name in tensors(tmp_path / "out"))


def test_gpt2_takes_an_adapter_on_attention_alone(tiny_gpt2: Path, data: Path, tmp_path: Path) -> None:
    run_sft(tmp_path, tiny_gpt2, data, training.sft_stage(training.lora("attention"), steps=1))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["attn.c_proj", "c_attn"]
    assert config["fan_in_fan_out"] is True
    assert all(".attn." in name for name in tensors(tmp_path / "out"))


def test_an_adapter_goes_on_training(adapter: Path, base: Path, data: Path, tmp_path: Path) -> None:
    outcome = run_sft(tmp_path, adapter, data, training.sft_stage(), under=base)
    before, after = tensors(adapter), tensors(tmp_path / "out")
    assert {name: tensor.shape for name, tensor in before.items()} == {n: t.shape for n, t in after.items()}
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "out" / "adapter_config.json").read_bytes() == (adapter / "adapter_config.json").read_bytes()
    assert {one.change for one in outcome.components} == {"overridden"}


def test_provenance_is_in_the_file(adapter: Path, base: Path, data: Path) -> None:
    where = adapter / "adapter_model.safetensors"
    found = Provenance.from_metadata(read_header(where).metadata, where=str(where))
    assert found is not None
    assert (found.kind, found.method, found.layers) == ("sft", "lora", "0-1")
    assert found.components[0] == "attention.key"
    assert [one.weights_digest for one in found.inputs] == [training.model_input("from", base).weights_digest]
    assert found.data == (training.data_input(data / "messages.jsonl").digest,)


# Whole models


def test_only_the_chosen_components_change(make_model: MakeModel, data: Path, tmp_path: Path) -> None:
    base = make_model("llama", dtype="bfloat16", tied=True)
    outcome = run_sft(tmp_path, base, data, training.sft_stage(targets=["attention.output", "norm.final"]))
    before, after = tensors(base), tensors(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.1.self_attn.o_proj.weight",
        "model.norm.weight",
    }
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert (tmp_path / "out" / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert outcome.type == "model"
    assert reason(outcome) == [
        ("attention.output", "overridden", "0-1", 2, "sft"),
        ("norm.final", "overridden", "", 1, "sft"),
    ]
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_whole_model_is_trained_without_targets(base: Path, data: Path, tmp_path: Path) -> None:
    run_sft(tmp_path, base, data, training.sft_stage())
    before, after = tensors(base), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


# What the loss is


def own_loss(base: Path, data: Path, *, assistant_only: bool) -> float:
    """Mean nats of the chosen tokens of all rows, worked out one by one."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    rows = [json.loads(line)["messages"] for line in (data / "messages.jsonl").read_text().splitlines()]
    encoded = encode_messages(tokenizer, rows, assistant_only=assistant_only, max_length=64, where="data")
    total, count = 0.0, 0
    for example in encoded.examples:
        chosen = sum(label >= 0 for label in example.labels[1:])
        with torch.no_grad():
            loss = model(torch.tensor([example.input_ids]), labels=torch.tensor([example.labels])).loss
        total, count = total + float(loss) * chosen, count + chosen
    return total / count


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_the_loss_is_that_of_the_chosen_tokens(base: Path, data: Path, tmp_path: Path, loss_on: str) -> None:
    stage = training.sft_stage(training.lora(dropout=0.0), steps=1, batch=24, loss_on=loss_on)
    outcome = run_sft(tmp_path, base, data, stage)
    want = own_loss(base, data, assistant_only=loss_on == "assistant")
    assert value(outcome, "train_loss") == pytest.approx(want, abs=1e-5)


def test_packed_rows_do_not_see_each_other(base: Path, data: Path, tmp_path: Path) -> None:
    stage = training.sft_stage(training.lora(dropout=0.0), steps=1, batch=1, packing=True, max_length=4096)
    outcome = run_sft(tmp_path, base, data, stage)
    assert value(outcome, "train_loss") == pytest.approx(own_loss(base, data, assistant_only=True), abs=1e-5)


def test_rows_are_not_packed_for_a_model_in_which_they_would_see_each_other(
    base: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "opt"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    vocabulary = len(AutoTokenizer.from_pretrained(base))
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2}
    rest = {"num_attention_heads": 4, "max_position_embeddings": 128, "pad_token_id": 0}
    OPTForCausalLM(OPTConfig(vocab_size=vocabulary, **sizes, **rest)).save_pretrained(folder)
    stage = training.sft_stage(steps=1, packing=True, max_length=96)
    with pytest.raises(InvalidError, match="'opt' does not keep them apart") as caught:
        run_sft(tmp_path / "run", folder, data, stage)
    assert (caught.value.where, caught.value.mend) == ("train.packing", "write `packing: false`")


def test_micro_batches_change_rounding_alone(base: Path, data: Path, tmp_path: Path) -> None:
    stage = training.sft_stage(training.lora(dropout=0.0), steps=2, batch=8)
    whole = run_sft(tmp_path / "whole", base, data, stage)
    split = run_sft(tmp_path / "split", base, data, stage, micro_batch=2)
    assert (whole.micro_batch, split.micro_batch) == (8, 2)
    assert value(split, "train_loss") == pytest.approx(value(whole, "train_loss"), abs=1e-5)
    assert value(split, "tokens") == value(whole, "tokens")


def test_sixteen_bit_arithmetic_keeps_what_is_trained_in_float32(
    make_model: MakeModel, data: Path, tmp_path: Path
) -> None:
    base = make_model("llama", dtype="bfloat16")
    stage = training.sft_stage(training.lora(dropout=0.0), steps=1, batch=24, precision="mixed-bfloat16")
    outcome = run_sft(tmp_path, base, data, stage)
    assert value(outcome, "train_loss") == pytest.approx(own_loss(base, data, assistant_only=True), rel=0.02)
    assert {tensor.dtype for tensor in tensors(tmp_path / "out").values()} == {torch.float32}


def test_a_split_follows_the_runner_until_there_is_a_checkpoint(base: Path, data: Path, tmp_path: Path) -> None:
    stage = training.sft_stage(training.lora(), steps=1)
    assert run_sft(tmp_path, base, data, stage, micro_batch=4).micro_batch == 4
    assert run_sft(tmp_path, base, data, stage, micro_batch=2).micro_batch == 2


def test_training_learns(base: Path, data: Path, tmp_path: Path) -> None:
    first = run_sft(tmp_path / "first", base, data, training.sft_stage(steps=1, batch=24))
    outcome = run_sft(tmp_path / "last", base, data, training.sft_stage(steps=20, batch=24))
    assert value(outcome, "train_loss") < value(first, "train_loss") / 2


# What DPO is held against: at the first step policy and reference are one, so the loss is ln 2


def test_a_new_adapter_is_held_against_the_model_under_it(base: Path, data: Path, tmp_path: Path) -> None:
    outcome = run_dpo(tmp_path, base, data, training.dpo_stage(training.lora(), steps=1))
    assert value(outcome, "train_loss") == pytest.approx(LN_2, abs=1e-6)
    assert outcome.type == "adapter"


def test_an_adapter_is_held_against_itself_as_it_came(adapter: Path, base: Path, data: Path, tmp_path: Path) -> None:
    outcome = run_dpo(tmp_path, adapter, data, training.dpo_stage(steps=1, beta=1.0), under=base)
    assert value(outcome, "train_loss") == pytest.approx(LN_2, abs=1e-5)
    assert set(tensors(tmp_path / "out")) == set(tensors(adapter))


def test_the_reference_of_an_adapter_does_not_move(adapter: Path, base: Path, data: Path, tmp_path: Path) -> None:
    """With a reference that followed, or that were the base, the margin would stay at or start far from nothing."""
    outcome = run_dpo(tmp_path, adapter, data, training.dpo_stage(steps=6, batch=8), under=base)
    assert value(outcome, "train_reward_margin") > 0.1
    assert value(outcome, "train_loss") < LN_2 - 0.05


def test_a_whole_model_is_held_against_itself_as_it_came(base: Path, data: Path, tmp_path: Path) -> None:
    outcome = run_dpo(tmp_path / "one", base, data, training.dpo_stage(targets=["mlp"], steps=1))
    assert value(outcome, "train_loss") == pytest.approx(LN_2, abs=1e-6)
    assert outcome.type == "model"
    more = run_dpo(tmp_path / "more", base, data, training.dpo_stage(targets=["mlp"], steps=6, batch=8))
    assert value(more, "train_loss") < LN_2 - 0.05
    assert value(more, "train_reward_accuracy") > 0.9


# The same run, the same bytes


@pytest.fixture(scope="module")
def children(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes side by side: each does one training to its end and is killed in the other."""
    folder = tmp_path_factory.mktemp("children")
    home = tmp_path_factory.mktemp("home")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.integration.training", str(base), str(data), whole, killed, str(folder)],
            cwd=ROOT,
            env={**os.environ, "HOME": str(home), "PYTHONWARNINGS": "error::UserWarning"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for whole, killed in (("sft", "dpo"), ("dpo", "sft"))
    ]
    for process in processes:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == -signal.SIGKILL, output
        assert output == ""
    assert list(home.iterdir()) == []
    return folder


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_two_processes_give_the_same_bytes(kind: str, children: Path, base: Path, data: Path, tmp_path: Path) -> None:
    functions = {"sft": sft, "dpo": dpo}
    functions[kind](training.resumable(kind, base, data, tmp_path))
    assert training.sums(tmp_path / "out") == training.sums(children / f"{kind}-whole" / "out")


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_killed_training_resumes_to_the_same_bytes(
    kind: str, children: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(children / f"{kind}-killed", tmp_path / "again")
    work = tmp_path / "again" / "work"
    assert (work / "checkpoint-4").is_dir()
    # A kill in the middle of writing a checkpoint: some files are there, one is short, the seal is not.
    shutil.copytree(work / "checkpoint-4", work / "checkpoint-6")
    (work / "checkpoint-6" / "varietal-seal.json").unlink()
    (work / "checkpoint-6" / "optimizer.pt").write_bytes(b"PK")
    context = training.resumable(kind, base, data, tmp_path / "again")
    outcome = {"sft": sft, "dpo": dpo}[kind](context)
    assert "resumed from the checkpoint of step 4" in outcome.notes
    assert value(outcome, "steps") == 8.0
    assert training.sums(context.out) == training.sums(children / f"{kind}-whole" / "out")


def test_a_resume_keeps_the_split(children: Path, base: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(children / "sft-killed", tmp_path / "again")
    context = training.resumable("sft", base, data, tmp_path / "again")
    changed = training.context(
        context.settings, list(context.inputs), tmp_path / "again", checkpoint_steps=2, micro_batch=4, threads=1
    )
    outcome = sft(changed)
    assert outcome.micro_batch == 2
    assert training.sums(context.out) == training.sums(children / "sft-whole" / "out")


@pytest.mark.parametrize("trained", ["adapter", "model"])
def test_an_adapter_or_a_model_resumes_under_dpo(
    trained: str, adapter: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    """The reference is worked out again on a resume: from what came, not from what was trained since."""
    source, under = (base, None) if trained == "model" else (adapter, base)
    stage = training.dpo_stage(steps=6)
    run_dpo(tmp_path / "whole", source, data, stage, under=under)
    run_dpo(tmp_path / "again", source, data, stage, under=under, checkpoint_steps=2)
    shutil.rmtree(tmp_path / "again" / "work" / "checkpoint-6")
    outcome = run_dpo(tmp_path / "again", source, data, stage, under=under, checkpoint_steps=2)
    assert "resumed from the checkpoint of step 4" in outcome.notes
    assert training.sums(tmp_path / "again" / "out") == training.sums(tmp_path / "whole" / "out")


# From nothing


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_model_from_nothing(architecture: str, data: Path, tmp_path: Path) -> None:
    inputs = [training.data_input(data / "text.jsonl")]
    stage = training.pretrain_stage(architecture)
    outcome = pretrain(training.context(stage, inputs, tmp_path / "one"))
    pretrain(training.context(stage, inputs, tmp_path / "two"))
    assert training.sums(tmp_path / "one" / "out") == training.sums(tmp_path / "two" / "out")
    assert outcome.type == "model"
    assert {one.change for one in outcome.components} == {"added"}

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one" / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one" / "out")
    assert model.config.vocab_size == len(tokenizer) == 270
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("a tower, naïve 🗼")["input_ids"]) == "a tower, naïve 🗼"
    rows = [[{"role": "user", "content": "red ?"}, {"role": "assistant", "content": "blue"}]]
    (example,) = encode_messages(tokenizer, rows, assistant_only=True, max_length=64, where="x").examples
    assert tokenizer.decode(example.input_ids) == "<|user|>red ?<|assistant|>blue<|end|>"
    assert tokenizer.decode([label for label in example.labels if label >= 0]) == "blue<|end|>"
    run_sft(
        tmp_path / "tuned", tmp_path / "one" / "out", data, training.sft_stage(training.lora(), steps=1, max_length=32)
    )


def test_a_vocabulary_that_the_texts_do_not_give(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text('{"text": "no no no"}\n')
    with pytest.raises(InvalidError) as caught:
        pretrain(
            training.context(training.pretrain_stage(), [training.data_input(tmp_path / "text.jsonl")], tmp_path / "x")
        )
    assert str(caught.value) == (
        "the texts give only 263 tokens, 270 are asked for\n"
        "  where: data:text.jsonl\n"
        "  mend: write `tokenizer: {vocabulary: 263}`, or give more text"
    )


# What goes wrong


def test_a_loss_that_is_no_number_ends_the_training(base: Path, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], 1e38)
    weights["model.embed_tokens.weight"] *= 1e30
    (broken / "model.safetensors").unlink()
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MachineError) as caught:
        run_sft(tmp_path, broken, data, training.sft_stage(training.lora()))
    assert str(caught.value) == (
        "grad_norm is nan at step 1, on rows 1, 8, 15, 18 of messages.jsonl; there is no checkpoint yet\n"
        "  where: data:messages.jsonl\n"
        "  mend: lower train.learning_rate, raise train.warmup, or look for broken rows"
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_an_adapter_takes_no_adapter(adapter: Path, base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        run_sft(tmp_path, adapter, data, training.sft_stage(training.lora()), under=base)
    assert str(caught.value) == (
        "`from: from` is an adapter, and the stage asks for another training than its own\n"
        "  where: from: from\n"
        "  mend: leave `adapter:` and `targets:` out to go on training it, or fold it first and start from the fold"
    )


def test_no_adapter_goes_on_the_head(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        run_sft(tmp_path, base, data, training.sft_stage(training.lora("head")))
    assert str(caught.value) == (
        "an adapter cannot go on lm_head: the trainer multiplies by the head's weight itself\n"
        '  where: adapter.targets: ["head"]\n'
        "  mend: leave it out of `targets:`; to train it, train without `adapter:` and name it in the stage's own"
    )


def test_texts_have_no_assistant(base: Path, data: Path, tmp_path: Path) -> None:
    inputs = [training.model_input("from", base), training.data_input(data / "text.jsonl")]
    with pytest.raises(InvalidError) as caught:
        sft(training.context(training.sft_stage(training.lora()), inputs, tmp_path))
    assert str(caught.value) == (
        "texts have no assistant turns to take the loss on\n"
        "  where: train.loss_on, with data:text.jsonl\n"
        "  mend: write `train: {loss_on: all}`"
    )


def test_a_row_longer_than_the_model_reads(base: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "z" * 200}) + "\n")
    inputs = [training.model_input("from", base), training.data_input(tmp_path / "text.jsonl")]
    with pytest.raises(InvalidError) as caught:
        sft(training.context(training.sft_stage(training.lora(), loss_on="all", max_length=150), inputs, tmp_path))
    assert str(caught.value) == (
        "the longest row has 150 tokens within max_length, the model reads at most 128\n"
        "  where: train.max_length, with data:text.jsonl\n"
        "  mend: write `train: {max_length: 128}` or less"
    )


def test_texts_are_learnt_whole(base: Path, data: Path, tmp_path: Path) -> None:
    inputs = [training.model_input("from", base), training.data_input(data / "text.jsonl")]
    outcome = sft(training.context(training.sft_stage(training.lora(), loss_on="all"), inputs, tmp_path))
    assert value(outcome, "tokens") > 0
