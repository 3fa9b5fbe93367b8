"""Training on sampled and rated answers for real, on a tiny model: what changes, what it learns, the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from builder.environment import Device
from builder.manifest import RewardStage
from builder.stages.distill import check_tokens, distill
from builder.stages.grpo import grpo
from builder.stages.reward import reward
from builder.stages.reward_models import RewardModel
from builder.stages.rewards import RatedRows
from builder.stages.rloo import rloo
from builder.stages.tokens import IGNORED, encode_messages
from builder.train_settings import RewardTraining
from registry.digest import digest_file
from registry.errors import InvalidError, MachineError
from tests.integration import online, training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.manifest import DistillStage, GrpoStage, RlooStage
    from builder.stage import Context, Input, Outcome
    from registry.canonical import JSON
    from tests.conftest import MakeModel

ROOT = Path(__file__).parents[2]
FUNCTIONS: dict[str, Callable[[Context[Any]], Outcome]] = {"grpo": grpo, "rloo": rloo, "distill": distill}


@pytest.fixture(scope="module", autouse=True)
def _own_variables() -> Iterator[None]:
    """A stage sets variables of its process; here that process goes on to other tests."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def data(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    online.write_prompts(folder)
    training.write_rows(folder)
    shutil.copytree(make_model("llama", seed=7), folder / "teacher")
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that is far from doing nothing."""
    folder = tmp_path_factory.mktemp("adapter")
    run(folder, tiny_llama, data, online.grpo_stage(online.lora(), learning_rate=0.05))
    return folder / "out"


def run(
    folder: Path,
    base: Path,
    data: Path,
    stage: GrpoStage | RlooStage,
    *,
    under: Path | None = None,
    rewards: list[Input] | None = None,
    prompts: str = "prompts",
    **runner: int,
) -> Outcome:
    inputs = [training.model_input("from", base), online.prompts_input(data, prompts)]
    inputs += [] if under is None else [training.model_input("base", under)]
    inputs += [online.reward_input(data)] if rewards is None else rewards
    return FUNCTIONS[stage.kind](training.context(stage, inputs, folder, **{"threads": 1, **runner}))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def value(outcome: Outcome, label: str) -> float:
    return outcome.metrics[label]["value"]


BOTH = ["grpo", pytest.param("rloo", marks=pytest.mark.slow)]
STAGES: dict[str, Callable[..., Any]] = {"grpo": online.grpo_stage, "rloo": online.rloo_stage}


@pytest.mark.parametrize("kind", BOTH)
def test_only_the_chosen_components_change(kind: str, make_model: MakeModel, data: Path, tmp_path: Path) -> None:
    base = make_model("llama", dtype="bfloat16", tied=True)
    outcome = run(tmp_path, base, data, STAGES[kind](targets=["attention.output", "norm.final"], beta=0.1))
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
    assert {(one.component, one.change, one.by) for one in outcome.components} == {
        ("attention.output", "overridden", kind),
        ("norm.final", "overridden", kind),
    }


@pytest.mark.parametrize("kind", BOTH)
def test_a_new_adapter_and_its_figures(kind: str, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path, tiny_llama, data, STAGES[kind](online.lora("attention"), beta=0.1))
    assert sorted(training.sums(tmp_path / "out")) == ["adapter_config.json", "adapter_model.safetensors"]
    assert all(".self_attn." in name for name in tensors(tmp_path / "out"))
    assert any(tensor.any() for name, tensor in tensors(tmp_path / "out").items() if "lora_B" in name)
    assert (outcome.type, value(outcome, "steps")) == ("adapter", 4.0)
    assert value(outcome, "train_reward") == value(outcome, "train_reward_shorter") < 0
    assert 1 <= value(outcome, "train_completion_length") <= 8
    assert 0 <= value(outcome, "train_clipped_share") <= 1
    assert {"train_kl", "train_entropy", "train_rewards_std"} <= outcome.metrics.keys()
    prompts = 16 * 11  # four steps of four answers; every prompt has more tokens than that
    assert value(outcome, "tokens") > prompts


@pytest.mark.parametrize("kind", BOTH)
def test_an_adapter_goes_on_and_is_its_own_reference(
    kind: str, adapter: Path, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    """At the first step it is where it began: no distance, though it is far from the model under it."""
    stage = STAGES[kind](beta=0.1, steps=1)
    outcome = run(tmp_path, adapter, data, stage, under=tiny_llama)
    before, after = tensors(adapter), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "out" / "adapter_config.json").read_bytes() == (adapter / "adapter_config.json").read_bytes()
    assert {one.change for one in outcome.components} == {"overridden"}
    assert abs(value(outcome, "train_kl")) < 1e-6


def test_it_learns_what_is_rewarded(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    """A model that says any byte learns to spell in letters."""
    stage = online.grpo_stage(steps=12, batch=16, num_generations=8, learning_rate=3e-2, schedule="constant")
    rewards = [online.reward_input(data, "spells")]
    once = replace(stage, train=replace(stage.train, steps=1))
    first = run(tmp_path / "a", tiny_llama, data, once, rewards=rewards)
    last = run(tmp_path / "b", tiny_llama, data, stage, rewards=rewards)
    assert value(last, "train_reward_spells") > 2 * value(first, "train_reward_spells") > 0


@pytest.mark.slow
def test_prompts_may_be_texts(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path, tiny_llama, data, online.grpo_stage(online.lora(), steps=2), prompts="plain")
    assert value(outcome, "steps") == 2.0


@pytest.mark.slow
def test_rewards_are_weighed_and_summed(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    rewards = [online.reward_input(data, weight=2.0), online.reward_input(data, "spells", weight=-0.5)]
    outcome = run(tmp_path, tiny_llama, data, online.grpo_stage(online.lora(), steps=2), rewards=rewards)
    both = 2.0 * value(outcome, "train_reward_shorter") - 0.5 * value(outcome, "train_reward_spells")
    assert value(outcome, "train_reward") == pytest.approx(both)


def test_long_prompts_are_left_out_and_counted(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    stage = online.grpo_stage(online.lora(), steps=1, max_length=22, max_completion_length=8)
    outcome = run(tmp_path, tiny_llama, data, stage)
    assert "3 prompts were left out: more than 14 tokens leave no room for an answer" in outcome.notes
    with pytest.raises(InvalidError, match="none of the 6 prompts has from 1 to 1 tokens"):
        run(tmp_path / "none", tiny_llama, data, online.grpo_stage(max_length=9, max_completion_length=8))


def test_a_reward_is_tried_before_anything_is_loaded(data: Path, tmp_path: Path) -> None:
    path = data / "rate.py"
    short = tmp_path / "short.py"
    short.write_text(path.read_text() + "def broken(completions, answer):\n    return []\n")
    given = replace(online.reward_input(data), path=short, digest=digest_file(short))
    reward = replace(given, settings={**given.settings, "function": "broken"})
    nowhere = replace(training.model_input("from", data / "teacher"), path=data / "nowhere")
    inputs = [nowhere, online.prompts_input(data), reward]
    with pytest.raises(InvalidError) as caught:
        grpo(training.context(online.grpo_stage(), inputs, tmp_path / "run"))
    assert str(caught.value) == (
        "the reward function needs 'answer', and no row has such a column\n"
        "  where: rewards/rate.py: broken, with data:prompts.jsonl\n"
        "  mend: add it to the rows, or give the parameter a default; columns: limit"
    )


# Reward models


@pytest.fixture(scope="module")
def judge(tiny_llama: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model, made by its own stage."""
    folder = tmp_path_factory.mktemp("judge")
    stage = RewardStage(from_="from", data={"data": 1.0}, train=RewardTraining(steps=2, batch=4, max_length=64))
    inputs = [training.model_input("from", tiny_llama), training.data_input(data / "preference.jsonl")]
    reward(training.context(stage, inputs, folder, threads=1))
    return folder / "out"


def judge_input(judge: Path) -> Input:
    settings: dict[str, JSON] = {"label": "judge", "weight": 1.0}
    return replace(training.model_input("reward_model", judge), name="judge", settings=settings)


def test_a_reward_model_rates(judge: Path, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    stage = online.grpo_stage(online.lora(), steps=1)
    outcome = run(tmp_path, tiny_llama, data, stage, rewards=[judge_input(judge), online.reward_input(data)])
    both = value(outcome, "train_reward_judge") + value(outcome, "train_reward_shorter")
    assert value(outcome, "train_reward") == pytest.approx(both)


def test_it_scores_what_it_was_trained_on(judge: Path) -> None:
    """As transformers scores a conversation that its own template renders, alone; beside others it is the same."""
    model = AutoModelForSequenceClassification.from_pretrained(judge).eval()
    tokenizer = AutoTokenizer.from_pretrained(judge)
    asked = [{"role": "user", "content": "the colour of the sky ?"}]
    texts = ["blue", "blue and grey and red"]
    rows = RatedRows(rows=[{"prompt": asked}, {"prompt": asked}], places=["1", "2"], source="data")
    device = Device(kind="cpu", name="cpu", threads=1)
    opened = RewardModel(judge_input(judge), device)
    found = opened.rate(rows.answered([0, 1], texts))
    assert opened.rate(rows.answered([0, 1], texts)) == found
    opened.close()
    for text, score in zip(texts, found, strict=True):
        talk = [*asked, {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(talk, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.no_grad():
            assert score == pytest.approx(float(model(input_ids=ids).logits[0, 0]), abs=1e-5)


def test_a_language_model_is_no_reward_model(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="the model has no head that gives one number"):
        run(tmp_path, tiny_llama, data, online.grpo_stage(), rewards=[judge_input(tiny_llama)])


# Distillation


def run_distill(
    folder: Path, base: Path, data: Path, stage: DistillStage, *, rows: Input | None = None, under: Path | None = None
) -> Outcome:
    inputs = [training.model_input("from", base), training.model_input("teacher", data / "teacher")]
    inputs += [online.prompts_input(data) if rows is None else rows]
    inputs += [] if under is None else [training.model_input("base", under)]
    return distill(training.context(stage, inputs, folder, threads=1))


def test_distillation_changes_the_chosen_components_alone(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    outcome = run_distill(tmp_path, tiny_llama, data, online.distill_stage(targets=["mlp.down"]))
    before, after = tensors(tiny_llama), tensors(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(2)}
    assert {"train_loss", "train_entropy", "train_completion_length"} <= outcome.metrics.keys()


def test_an_adapter_is_distilled_and_goes_on(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    rows = training.data_input(data / "messages.jsonl")
    run_distill(tmp_path / "new", tiny_llama, data, online.distill_stage(online.lora()), rows=rows)
    new = tmp_path / "new" / "out"
    outcome = run_distill(tmp_path / "on", new, data, online.distill_stage(), rows=rows, under=tiny_llama)
    before, after = tensors(new), tensors(tmp_path / "on" / "out")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert outcome.type == "adapter"


@pytest.mark.parametrize(("beta", "forward"), [(0.0, True), (1.0, False)])
def test_the_loss_is_the_divergence(
    *, beta: float, forward: bool, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    """Of the assistant's tokens of the rows, over all tokens of the vocabulary, against torch's own."""
    stage = online.distill_stage(steps=1, batch=24, beta=beta, learning_rate=1e-9)
    rows = training.data_input(data / "messages.jsonl")
    found = value(run_distill(tmp_path, tiny_llama, data, stage, rows=rows), "train_loss")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    talks = [json.loads(line)["messages"] for line in (data / "messages.jsonl").read_text().splitlines()]
    encoded = encode_messages(tokenizer, talks, assistant_only=True, max_length=64, where="rows")
    student, teacher = (AutoModelForCausalLM.from_pretrained(one).eval() for one in (tiny_llama, data / "teacher"))
    total, count = 0.0, 0
    for example in encoded.examples:
        learnt = torch.tensor(example.labels)[1:] != IGNORED
        with torch.no_grad():
            ids = torch.tensor([example.input_ids])
            one, other = (model(ids).logits[0, :-1][learnt].log_softmax(-1) for model in (student, teacher))
        near, far = (one, other) if forward else (other, one)
        total += float(torch.nn.functional.kl_div(near, far, log_target=True, reduction="sum"))
        count += int(learnt.sum())
    assert found == pytest.approx(total / count, rel=1e-3)


@pytest.mark.slow
def test_it_comes_closer(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    once = run_distill(tmp_path / "a", tiny_llama, data, online.distill_stage(steps=1))
    often = run_distill(tmp_path / "b", tiny_llama, data, online.distill_stage(steps=16))
    assert value(often, "train_loss") < 0.8 * value(once, "train_loss")


def test_other_tokens_are_refused() -> None:
    with pytest.raises(InvalidError) as caught:
        check_tokens({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}, where="teacher: big")
    assert str(caught.value) == (
        "teacher and student have 2 tokens that differ; the first is 'b', 2 of the student and 3 of the teacher\n"
        "  where: teacher: big\n"
        "  mend: choose a teacher with the student's tokenizer"
    )


# The same bytes


@pytest.fixture(scope="module")
def killed(tiny_llama: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What trainings leave that were killed in another process, one of each kind."""
    folder, home = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.online", str(tiny_llama), str(data), str(folder)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), "PYTHONWARNINGS": "error::UserWarning"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []
    return folder


@pytest.mark.parametrize("kind", ["grpo", "rloo", "distill"])
def test_a_killed_training_resumes_to_the_same_bytes(
    kind: str, killed: Path, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    """Answers are sampled again as they were; checkpoints are written where a round of them ends, and there only."""
    shutil.copytree(killed / kind, tmp_path / "again")
    steps = sorted(path.name for path in (tmp_path / "again" / "work").glob("checkpoint-*"))
    assert steps == ["checkpoint-4"]
    context = online.resumable(kind, tiny_llama, data, tmp_path / "again")
    outcome = FUNCTIONS[kind](context)
    assert "resumed from the checkpoint of step 4" in outcome.notes
    assert value(outcome, "steps") == 8.0
    whole = online.resumable(kind, tiny_llama, data, tmp_path / "whole")
    assert FUNCTIONS[kind](whole).metrics == outcome.metrics
    assert training.sums(whole.out) == training.sums(context.out)


@pytest.mark.slow
def test_who_asks_it_to_end_waits_for_the_round(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    """A checkpoint in the middle of a round would sample other answers when it is gone on from."""
    context = online.resumable("grpo", tiny_llama, data, tmp_path / "again")

    def ask(line: str) -> None:
        if line.startswith("step 5 "):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(MachineError, match="ended by SIGTERM after step 6 of 8"):
        grpo(replace(context, say=ask))
    grpo(online.resumable("grpo", tiny_llama, data, tmp_path / "again"))
    grpo(online.resumable("grpo", tiny_llama, data, tmp_path / "whole"))
    assert training.sums(tmp_path / "again" / "out") == training.sums(tmp_path / "whole" / "out")
