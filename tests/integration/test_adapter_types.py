"""Adapters of every type, trained for real on a tiny model: what comes out is PEFT's, and folds to the same model."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from builder.adapter_settings import ADAPTERS, AdapterSettings
from builder.room import artifact_bytes
from builder.shapes import Reading
from builder.stages.dpo import dpo
from builder.stages.fold import fold
from builder.stages.sft import sft
from builder.tables import read
from builder.weight_stages import FoldStage
from builder.weighting import ONE
from tests.integration import training

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.stage import Outcome

SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "lora by component": {"type": "lora", "rank": [{"value": 2}, {"on": "mlp", "value": [4, 8]}], "alpha": 8},
    "lora, DoRA": {"type": "lora", "rank": 4, "dora": True},
    "lora, rank-stabilised": {"type": "lora", "rank": 4, "rslora": True},
    "lora, gaussian": {"type": "lora", "rank": 4, "init": "gaussian"},
    "lora, orthogonal": {"type": "lora", "rank": 4, "init": "orthogonal"},
    "lora, PiSSA": {"type": "lora", "rank": [{"value": 2}, {"on": "mlp", "value": 4}], "init": "pissa"},
    "lora, OLoRA": {"type": "lora", "rank": 4, "init": "olora", "rslora": True},
    "lora, PiSSA and DoRA": {"type": "lora", "rank": 4, "init": "pissa", "dora": True},
    "adalora": {"init_rank": 4, "target_rank": 2},
    "loha": {"rank": [{"value": 2}, {"on": "mlp", "value": 4}]},
    "lokr": {"rank": 4},
    "lokr, both": {"type": "lokr", "rank": 2, "decompose_both": True, "decompose_factor": 4},
    "delora": {"rank": 4},
    "hira": {"rank": 4},
    "gralora": {"rank": 4, "hybrid_rank": 2},
    "glora": {"rank": 2},
    "deft": {"rank": 4},
    "deft, PaRa": {"type": "deft", "rank": 4, "para": True, "decomposition": "qr"},
    "peanut": {"rank": 4, "depth": 1},
    "oft": {"block_size": 8},
    "oft, blocks": {"type": "oft", "blocks": 4, "block_share": True, "cayley_neumann": False},
    "boft": {"block_size": 4, "factors": 2},
    "hra": {"rank": 4},
    "road": {"group_size": 8},
    "vera": {"rank": 8},
    "pvera": {"rank": 8},
    "randlora": {"rank": 8},
    "vblora": {"rank": 2, "vectors": 8, "vector_length": 8},
    "unilora": {"rank": 2, "length": 32},
    "tinylora": {"u": 8, "weight_tying": 0.5},
    "frod": {},
    "fourierft": {"frequencies": 50},
    "waveft": {"coefficients": [{"value": 40}, {"on": "mlp", "value": 60}]},
    "c3a": {"block_size": 8},
    "miss": {"rank": 4},
    "miss, Bone": {"type": "miss", "rank": 4, "init": "bat"},
    "miss, mini": {"type": "miss", "rank": 4, "init": "mini", "mini_rank": 4},
    "shira": {"rank": 2},
    "supertuning": {"sparsity": 0.9},
    "supertuning, Supra": {"type": "supertuning", "sparsity": 0.9, "rank": 2},
    "osf": {"effective_rank": 8},
    "ia3": {},
    "ln_tuning": {},
    "beft": {},
    "trainable_tokens": {"tokens": ["<|user|>", "<|end|>"]},
    "prompt_tuning": {"virtual_tokens": 4},
    "prefix_tuning": {"virtual_tokens": 4},
}
"""What a case is called -> settings that suit a network of width 32; without a `type` its name is the type."""

UNFOLDED = frozenset({"prompt_tuning", "prefix_tuning", "beft"})  # of the last, for want of biases in this base
QUICK = frozenset({"lora, PiSSA", "adalora", "lokr", "vera"})


def cases(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def settings(name: str, **more: object) -> AdapterSettings:
    """A table as a manifest would have it."""
    reading = Reading(file="model.yaml")
    table: dict[str, Any] = {"type": name} | SMALL[name] | more
    found = cast("AdapterSettings | None", read(ADAPTERS[str(table["type"])], table, reading))
    assert not reading.faults
    assert found is not None
    return found


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


def train(adapter: AdapterSettings, base: Path, data: Path, folder: Path, **more: object) -> tuple[Outcome, int]:
    """Two steps and more; also the room that was reckoned with."""
    stage = training.sft_stage(adapter, **({"steps": 3, "learning_rate": 0.02} | more))
    inputs = [training.model_input("from", base), training.data_input(data / "messages.jsonl")]
    context = training.context(stage, inputs, folder)
    return sft(context), artifact_bytes(stage, context.inputs, folder)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.arange(24)[None]).logits
    return found[:, -24:]  # a learnt prompt has some of its own


def with_adapter(base: Path, adapter: Path) -> torch.Tensor:
    """As a user of PEFT would have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)))


def folded(base: Path, adapter: Path, folder: Path) -> torch.Tensor:
    """What our fold makes of it."""
    inputs = [
        training.model_input("from", base),
        replace(training.model_input("adapter", adapter), name="new", settings={"weight": 1.0}),
    ]
    stage = FoldStage(from_="from", adapters={"new": ONE})
    fold(training.context(stage, inputs, folder))
    return logits(AutoModelForCausalLM.from_pretrained(folder / "out"))


def test_every_type_has_a_case() -> None:
    assert {str(SMALL[name].get("type", name)) for name in SMALL} == set(ADAPTERS)


@pytest.mark.parametrize("name", cases(list(SMALL)))
def test_a_new_adapter_folds_to_the_model_that_was_trained(
    name: str, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    adapter = settings(name)
    outcome, room = train(adapter, tiny_llama, data, tmp_path / "train")
    out = tmp_path / "train" / "out"

    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"]) == (adapter.peft_type, "CAUSAL_LM")
    assert str(tiny_llama) not in (out / "adapter_config.json").read_text()
    assert outcome.type == "adapter"
    assert {one.change for one in outcome.components} == {"added"}
    assert (out / "adapter_model.safetensors").stat().st_size <= room + (1 << 16)

    trained = with_adapter(tiny_llama, out)
    assert (trained - logits(AutoModelForCausalLM.from_pretrained(tiny_llama))).abs().max() > 1e-4
    if adapter.type not in UNFOLDED:
        assert (folded(tiny_llama, out, tmp_path / "fold") - trained).abs().max() < 1e-4


def test_adalora_drops_ranks_and_writes_those_that_are_left(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    train(settings("adalora", tinit=1, tfinal=1), tiny_llama, data, tmp_path, steps=6)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    left = sum(sum(kept) for kept in config["rank_pattern"].values())
    assert left == 2 * 14  # the target, times seven weights in each of two layers
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert sum(len(one) for name, one in tensors.items() if "lora_E" in name) == left


@pytest.mark.parametrize(
    "name",
    ["adalora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lora, PiSSA", "pvera", "shira", "frod"))],
)
def test_a_training_that_is_killed_ends_with_the_same_bytes(
    name: str, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    stage = training.sft_stage(settings(name), steps=6, learning_rate=0.02)
    inputs = [training.model_input("from", tiny_llama), training.data_input(data / "messages.jsonl")]
    sft(training.context(stage, inputs, tmp_path / "whole", checkpoint_steps=2))
    doomed = training.context(stage, inputs, tmp_path / "killed", checkpoint_steps=2)

    def die(line: str) -> None:
        if line.startswith("step 5 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sft(replace(doomed, say=die))
    outcome = sft(training.context(stage, inputs, tmp_path / "killed", checkpoint_steps=2))
    assert any("resumed" in note for note in outcome.notes)
    assert training.sums(tmp_path / "killed" / "out") == training.sums(tmp_path / "whole" / "out")


@pytest.mark.slow
def test_adalora_keeps_its_vectors_orthogonal_whatever_the_trainer(
    tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    def crookedness(orthogonality: float) -> float:
        folder = tmp_path / f"{orthogonality}"
        train(settings("adalora", target_rank=3, orthogonality=orthogonality), tiny_llama, data, folder, steps=8)
        tensors = load_file(folder / "out" / "adapter_model.safetensors")
        rows = [one for name, one in tensors.items() if name.endswith("lora_A")]
        return sum(float((one @ one.T - torch.eye(len(one))).norm()) for one in rows)

    assert crookedness(1000.0) < 0.9 * crookedness(1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "lora, PiSSA", "fourierft", "prompt_tuning", "prefix_tuning", "osf"])
def test_the_reference_of_a_preference_is_the_model_without_the_new_adapter(
    name: str, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    """The loss of one step that moves nothing, against probabilities worked out with PEFT alone."""
    stage = training.dpo_stage(settings(name), steps=1, batch=24, learning_rate=1e-12, beta=1.0)
    inputs = [training.model_input("from", tiny_llama), training.data_input(data / "preference.jsonl")]
    outcome = dpo(training.context(stage, inputs, tmp_path))

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    rows = [json.loads(line) for line in (data / "preference.jsonl").read_text().splitlines()]

    def margins(model: torch.nn.Module) -> torch.Tensor:
        return torch.stack(
            [
                answered(model, tokenizer, row["prompt"], row["chosen"])
                - answered(model, tokenizer, row["prompt"], row["rejected"])
                for row in rows
            ]
        )

    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    before = margins(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = margins(PeftModel.from_pretrained(model, str(tmp_path / "out")).eval())
    expected = -torch.nn.functional.logsigmoid(after - before).mean()
    assert outcome.metrics["train_loss"]["value"] == pytest.approx(float(expected), abs=1e-4)


def answered(model: torch.nn.Module, tokenizer: Any, prompt: Any, answer: Any) -> torch.Tensor:  # noqa: ANN401
    """Log-probability of an answer."""
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*prompt, *answer], tokenize=False)
    start = len(tokenizer(text, add_special_tokens=False).input_ids)
    ids = torch.tensor([tokenizer(whole, add_special_tokens=False).input_ids])
    with torch.no_grad():
        scores = model(ids).logits[0, -ids.shape[1] :].double().log_softmax(-1)
    return scores[start - 1 : -1].gather(1, ids[0, start:, None]).sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("lora", {"bias": "adapted"}),
        ("lora", {"bias": "all", "dora": True}),
        ("lora, PiSSA", {}),
        ("vera", {}),
        ("ia3", {"targets": ["attention.fused", "mlp.down"]}),
        ("fourierft", {}),
        ("ln_tuning", {}),
    ],
)
def test_layers_of_gpt2_take_an_adapter_and_fold(
    name: str, more: dict[str, Any], tiny_gpt2: Path, data: Path, tmp_path: Path
) -> None:
    train(settings(name, **more), tiny_gpt2, data, tmp_path / "train")
    trained = with_adapter(tiny_gpt2, tmp_path / "train" / "out")
    assert (trained - logits(AutoModelForCausalLM.from_pretrained(tiny_gpt2))).abs().max() > 1e-4
    assert (folded(tiny_gpt2, tmp_path / "train" / "out", tmp_path / "fold") - trained).abs().max() < 1e-4
