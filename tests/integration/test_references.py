"""The reference of a training on preferences is the model that is meant: its log-probabilities, worked out apart."""

from __future__ import annotations

import json
import os
import warnings
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import builder.engines.dpo
import builder.engines.kto
from builder.adapter_settings import FINISHED
from builder.stages.dpo import dpo
from builder.stages.grpo import grpo
from builder.stages.kto import kto
from builder.stages.rloo import rloo
from builder.stages.sft import sft
from tests.integration import online, preference_kinds, training
from tests.integration.test_adapter_types import SMALL, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.adapter_settings import AdapterSettings, LoraSettings
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


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that is far from doing nothing."""
    folder = tmp_path_factory.mktemp("adapter")
    inputs = [training.model_input("from", tiny_llama), training.data_input(data / "messages.jsonl")]
    sft(training.context(training.sft_stage(training.lora(), learning_rate=0.05, steps=16), inputs, folder))
    return folder / "out"


@pytest.fixture
def trainers() -> Iterator[list[Any]]:
    """The trainers that are run."""
    found: list[Any] = []

    def look(trainer: object, *arguments: object, **keywords: object) -> object:
        found.append(trainer)
        return ran(trainer, *arguments, **keywords)

    ran: Any = builder.engines.dpo.run  # type: ignore[attr-defined] # the engine's own name for it
    with mock.patch.object(builder.engines.dpo, "run", look), mock.patch.object(builder.engines.kto, "run", look):
        yield found


def run(folder: Path, source: Path, data: Path, stage: Any, *, under: Path | None = None) -> Outcome:  # noqa: ANN401
    inputs = [training.model_input("from", source), training.data_input(data / "preference.jsonl")]
    inputs += [] if under is None else [training.model_input("base", under)]
    return (dpo if stage.kind == "dpo" else kto)(training.context(stage, inputs, folder))


def stage_of(kind: str, adapter: LoraSettings | None = None, targets: str | None = None) -> Any:  # noqa: ANN401
    return training.dpo_stage(adapter, targets) if kind == "dpo" else preference_kinds.stage_of(kind, adapter, targets)


def own(model: Any, prompt: list[int], answer: list[int]) -> float:  # noqa: ANN401 - no types to be had
    """Log-probability of an answer, in nats: one row, no padding, no batch."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return float(sum(logits[place, token] for place, token in zip(places, answer, strict=True)))


def answers(base: Path, data: Path) -> dict[str, tuple[list[int], list[int]]]:
    """Prompt and answer of every row of the data, by the text of both."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    found = {}
    for line in (data / "preference.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        for name in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template(row["prompt"] + row[name])["input_ids"]
            assert whole[: len(prompt)] == prompt
            found[tokenizer.decode(whole)] = prompt, whole[len(prompt) :]
    return found


def check(trainer: Any, base: Path, data: Path, meant: Any) -> None:  # noqa: ANN401 - no types to be had
    """Every reference log-probability is that of the model meant."""
    tokenizer, known = AutoTokenizer.from_pretrained(base), answers(base, data)
    rows = trainer.train_dataset.to_list()
    assert len(rows) == 16
    names = {"chosen": "ref_chosen_logps", "rejected": "ref_rejected_logps", "completion": "ref_logps"}
    for row in rows:
        for name in [name for name in names if f"{name}_ids" in row]:
            prompt, answer = known[tokenizer.decode(row["prompt_ids"] + row[f"{name}_ids"])]
            assert row[names[name]] == pytest.approx(own(meant, prompt, answer), abs=2e-4)
        if "KL_completion_ids" in row:  # the answer of another row, after this one's prompt
            meant_for_another = own(meant, row["prompt_ids"], row["KL_completion_ids"])
            assert row["ref_KL_logps"] == pytest.approx(meant_for_another, abs=2e-4)


@pytest.mark.parametrize("kind", ["dpo", "kto"])
@pytest.mark.parametrize(
    ("new", "targets"),
    [
        pytest.param(training.lora(dropout=0.0), None, id="adapter"),
        pytest.param(None, None, id="model", marks=pytest.mark.slow),  # as components, but that all are trained
        pytest.param(None, "attention", id="components"),
    ],
)
def test_a_model_is_its_own_reference(
    *,
    tiny_llama: Path,
    data: Path,
    tmp_path: Path,
    trainers: list[Any],
    kind: str,
    new: LoraSettings | None,
    targets: str | None,
) -> None:
    run(tmp_path, tiny_llama, data, stage_of(kind, new, targets))
    check(trainers[0], tiny_llama, data, AutoModelForCausalLM.from_pretrained(tiny_llama))


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_an_adapter_is_its_own_reference_and_not_the_model_under_it(
    kind: str, *, adapter: Path, tiny_llama: Path, data: Path, tmp_path: Path, trainers: list[Any]
) -> None:
    run(tmp_path, adapter, data, stage_of(kind), under=tiny_llama)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    prompt, answer = next(iter(answers(tiny_llama, data).values()))
    alone = own(base, prompt, answer)
    meant = PeftModel.from_pretrained(base, str(adapter)).eval()
    assert abs(own(meant, prompt, answer) - alone) > 0.5
    check(trainers[0], tiny_llama, data, meant)


EMBEDDING = "lora on an embedding"
GOING_ON = (EMBEDDING, *(name for name in SMALL if SMALL[name].get("type", name) not in FINISHED))
"""Adapters that can go on; of most types PEFT keeps the tensors under other names than those of LoRA on a layer."""


def table_of(name: str) -> AdapterSettings:
    return training.lora("embedding.token", dropout=0.0) if name == EMBEDDING else settings(name)


def going_on(kinds: tuple[str, ...], quick: set[tuple[str, str]]) -> list[Any]:
    return [
        pytest.param(kind, name, marks=() if (kind, name) in quick else pytest.mark.slow)
        for kind in kinds
        for name in GOING_ON
    ]


def learnt(name: str, base: Path, data: Path, folder: Path) -> Path:
    """An adapter of some type that is far from doing nothing."""
    stage = training.sft_stage(table_of(name), learning_rate=0.3, schedule="constant")
    inputs = [training.model_input("from", base), training.data_input(data / "messages.jsonl")]
    sft(training.context(stage, inputs, folder))
    return folder / "out"


@pytest.mark.parametrize(
    ("kind", "name"), going_on(("dpo", "kto"), {("dpo", EMBEDDING), ("dpo", "loha"), ("kto", "ia3"), ("kto", "vera")})
)
def test_an_adapter_of_any_type_is_its_own_reference(
    kind: str, name: str, *, tiny_llama: Path, data: Path, tmp_path: Path, trainers: list[Any]
) -> None:
    adapter = learnt(name, tiny_llama, data, tmp_path / "learnt")
    run(tmp_path / "on", adapter, data, stage_of(kind), under=tiny_llama)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    prompt, answer = next(iter(answers(tiny_llama, data).values()))
    alone = own(base, prompt, answer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT would compile something for BOFT
        meant = PeftModel.from_pretrained(base, str(adapter)).eval()
    assert abs(own(meant, prompt, answer) - alone) > 0.01
    check(trainers[0], tiny_llama, data, meant)


@pytest.mark.parametrize(
    ("kind", "name"),
    # PVeRA draws its vectors anew at each pass of a training, so it is at some distance from itself.
    [one for one in going_on(("grpo", "rloo"), {("grpo", "loha")}) if one.values[1] != "pvera"],
)
def test_answers_are_held_to_an_adapter_of_any_type_as_it_came(
    kind: str, name: str, *, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    """At the first step it is where it began."""
    online.write_prompts(tmp_path)
    adapter = learnt(name, tiny_llama, data, tmp_path / "learnt")
    stage = (online.grpo_stage if kind == "grpo" else online.rloo_stage)(steps=1, beta=0.1)
    inputs = [training.model_input("from", adapter), training.model_input("base", tiny_llama)]
    inputs += [online.prompts_input(tmp_path), online.reward_input(tmp_path)]
    outcome = (grpo if kind == "grpo" else rloo)(training.context(stage, inputs, tmp_path / "on"))
    assert abs(outcome.metrics["train_kl"]["value"]) < 1e-6
