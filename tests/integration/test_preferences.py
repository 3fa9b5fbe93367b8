"""The kinds that learn from preferences, for real, on a tiny model: what changes, by which loss, to which bytes."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from builder.engines.experimental import trainer_of
from builder.manifest import EvaluateStage
from builder.preference_rules import likelihood_weight
from builder.settings import Metric
from builder.stages.training import make_job
from builder.train_settings import CpoTraining
from builder.weight_stages import FoldStage
from builder.weighting import Weighting
from registry.errors import InvalidError, MachineError
from tests.integration import preference_kinds as kinds
from tests.integration import training

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.stage import Outcome

ROOT = Path(__file__).parents[2]
ALL = tuple(kinds.TABLES)
MOSTLY_SLOW = [pytest.param(kind, marks=() if kind == "kto" else pytest.mark.slow) for kind in ALL]
"""What the kinds have from one another is tried by default on one of them."""


@pytest.fixture(scope="module", autouse=True)
def _own_variables() -> Iterator[None]:
    """A stage sets variables of its process; here that process goes on to other tests."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    kinds.write_rows(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a head that gives one number."""
    return kinds.with_head(tiny_llama, tmp_path_factory.mktemp("scorer"))


@pytest.fixture
def source(kind: str, tiny_llama: Path, scorer: Path) -> Path:
    """What a kind starts from where nothing but the chosen components is to change."""
    return scorer if kind == "reward" else tiny_llama


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def value(outcome: Outcome, label: str) -> float:
    return outcome.metrics[label]["value"]


# What changes


@pytest.mark.parametrize("kind", MOSTLY_SLOW)
def test_only_the_chosen_components_change(kind: str, source: Path, data: Path, tmp_path: Path) -> None:
    stage = kinds.stage_of(kind, targets=["attention.output", "norm.final"], steps=2)
    outcome = kinds.run(kinds.context_of(stage, source, data, tmp_path))
    before, after = tensors(source), tensors(tmp_path / "out")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.1.self_attn.o_proj.weight",
        "model.norm.weight",
    }
    assert before.keys() == after.keys()
    assert (tmp_path / "out" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert outcome.type == "model"
    assert {(one.component, one.change, one.by) for one in outcome.components} == {
        ("attention.output", "overridden", kind),
        ("norm.final", "overridden", kind),
    }


@pytest.mark.parametrize("kind", MOSTLY_SLOW)
def test_an_adapter_is_new_and_then_goes_on(kind: str, source: Path, data: Path, tmp_path: Path) -> None:
    new = kinds.stage_of(kind, training.lora("attention.query", dropout=0.0), steps=2)
    outcome = kinds.run(kinds.context_of(new, source, data, tmp_path / "new"))
    head = [("head", "added")] if kind == "reward" else []
    assert outcome.type == "adapter"
    assert [(one.component, one.change) for one in outcome.components] == [("attention.query", "added"), *head]
    first = tmp_path / "new" / "out"

    again = kinds.run(kinds.context_of(kinds.stage_of(kind, steps=2), first, data, tmp_path / "again", under=source))
    assert again.type == "adapter"
    assert {one.component for one in again.components} == {one.component for one in outcome.components}
    assert {one.change for one in again.components} == {"overridden"}
    before, after = tensors(first), tensors(tmp_path / "again" / "out")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert (first / "adapter_config.json").read_bytes() == (
        tmp_path / "again" / "out" / "adapter_config.json"
    ).read_bytes()


# What the loss is: worked out row by row, at the first step


class Nats(NamedTuple):
    """What one answer costs."""

    answer: float
    answer_tokens: int
    whole: float
    whole_tokens: int

    @property
    def mean(self) -> float:
        """Log-probability of a token of the answer."""
        return -self.answer / self.answer_tokens


def answer_nats(base: Path, data: Path) -> list[tuple[Nats, Nats]]:
    """Of every preference, for the better and the worse answer: what it costs, alone and with its prompt."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    found = []
    for line in (data / "preference.jsonl").read_text().splitlines():
        row = json.loads(line)
        start = len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"])
        sides = []
        for name in ("chosen", "rejected"):
            ids = torch.tensor(tokenizer.apply_chat_template(row["prompt"] + row[name])["input_ids"])
            with torch.no_grad():
                logits = model(ids[None]).logits[0].double().log_softmax(-1)
            nats = -logits[:-1].gather(1, ids[1:, None])[:, 0]
            sides.append(Nats(float(nats[start - 1 :].sum()), len(ids) - start, float(nats.sum()), len(ids) - 1))
        found.append((sides[0], sides[1]))
    return found


def softplus(number: float) -> float:
    return math.log1p(math.exp(-abs(number))) + max(number, 0.0)


def expected(kind: str, rows: list[tuple[Nats, Nats]], loss: str) -> float:
    """The loss of a batch that holds every row, as the papers have it."""
    chosen = [better for better, _ in rows]
    if kind == "orpo":
        odds = [
            better.mean - worse.mean - math.log((1 - math.exp(better.mean)) / (1 - math.exp(worse.mean)))
            for better, worse in rows
        ]
        whole = sum(one.whole for one in chosen) / sum(one.whole_tokens for one in chosen)
        return whole + 0.1 * sum(softplus(-one) for one in odds) / len(rows)
    if loss == "simpo":
        return sum(softplus(-(0.1 * (better.mean - worse.mean) - 0.5)) for better, worse in rows) / len(rows)
    likelihood = sum(one.answer for one in chosen) / sum(one.answer_tokens for one in chosen)
    return likelihood + sum(softplus(-0.1 * (worse.answer - better.answer)) for better, worse in rows) / len(rows)


@pytest.mark.parametrize(
    ("kind", "loss"), [("orpo", ""), pytest.param("cpo", "sigmoid", marks=pytest.mark.slow), ("cpo", "simpo")]
)
def test_the_loss_is_that_of_the_paper(kind: str, loss: str, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    own: dict[str, Any] = {"loss": loss} if loss else {}
    stage = kinds.stage_of(kind, steps=1, batch=24, **own)
    outcome = kinds.run(kinds.context_of(stage, tiny_llama, data, tmp_path, micro_batch=24))
    rows = answer_nats(tiny_llama, data)
    assert value(outcome, "train_loss") == pytest.approx(expected(kind, rows, loss), abs=1e-4)
    assert {"train_reward_accuracy", "train_reward_margin"} <= outcome.metrics.keys()
    means = [note for note in outcome.notes if note.endswith("took the mean over the tokens of 24 rows at a time")]
    assert len(means) == (loss != "simpo")


def test_kto_at_its_first_step(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    """Policy and reference are one: each answer costs a half, times its weight; half of them are good."""
    train: dict[str, Any] = {"steps": 1, "batch": 48, "desirable_weight": 1.0, "undesirable_weight": 0.5}
    outcome = kinds.run(kinds.context_of(kinds.stage_of("kto", **train), tiny_llama, data, tmp_path, micro_batch=48))
    assert value(outcome, "train_loss") == pytest.approx((0.5 + 0.25) / 2, abs=1e-5)
    assert "of the rows, 24 are good answers and 24 are not" in outcome.notes


def test_kto_learns_and_its_reference_does_not_move(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    stage = kinds.stage_of("kto", training.lora(dropout=0.0), steps=8, batch=8)
    outcome = kinds.run(kinds.context_of(stage, tiny_llama, data, tmp_path))
    assert value(outcome, "train_loss") < 0.48
    assert value(outcome, "train_reward_margin") > 0.1


def test_an_answer_after_the_prompt_of_another_row_ends_where_the_model_does(tiny_gpt2: Path, tmp_path: Path) -> None:
    """Long prompts with short answers, and the other way round: each row fits the model, a mixture of two does not."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    long = "the baker "
    while len(tokenizer(long)["input_ids"]) < 100:
        long += "the baker "
    sides = [(long, "the river"), ("the river ", long)] * 4
    rows = [{"prompt": one, "completion": other, "label": one == long} for one, other in sides]
    (tmp_path / "unpaired.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = kinds.stage_of("kto", targets="attention.output", steps=2, max_length=256)
    context = kinds.context_of(stage, tiny_gpt2, tmp_path, tmp_path, micro_batch=4)
    with mock.patch("builder.stages.kto.make_job", wraps=make_job) as made:
        outcome = kinds.run(context)
    assert math.isfinite(value(outcome, "train_loss"))
    assert 100 + 128 < made.call_args.kwargs["row_tokens"] < 128 + 128


@pytest.mark.slow
def test_preferences_are_two_answers_each(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    stage = kinds.stage_of("kto", training.lora("attention.query"), steps=2)
    kinds.run(kinds.context_of(stage, tiny_llama, data, tmp_path / "unpaired"))
    outcome = kinds.run(kinds.context_of(stage, tiny_llama, data, tmp_path / "pairs", rows="preference"))
    assert "of the rows, 24 are good answers and 24 are not" in outcome.notes
    one, other = tensors(tmp_path / "unpaired" / "out"), tensors(tmp_path / "pairs" / "out")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_simpo_has_no_likelihood_beside_it_unless_it_is_asked_for() -> None:
    assert likelihood_weight(CpoTraining(loss="simpo")) == 0.0
    assert likelihood_weight(CpoTraining(loss="simpo", cpo_alpha=0.3)) == 0.3
    assert likelihood_weight(CpoTraining()) == 1.0


# A model that scores


def opened(folder: Path) -> Any:  # noqa: ANN401 - no types to be had
    return AutoModelForSequenceClassification.from_pretrained(folder)


def scores(model: Any, base: Path, data: Path) -> list[tuple[float, float]]:  # noqa: ANN401 - no types to be had
    """What a model gives for the better and the worse answer of every row."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    found = []
    for line in (data / "preference.jsonl").read_text().splitlines():
        row = json.loads(line)
        sides = []
        for name in ("chosen", "rejected"):
            ids = tokenizer.apply_chat_template(row["prompt"] + row[name])["input_ids"]
            with torch.no_grad():
                sides.append(float(model(torch.tensor([ids])).logits[0, 0]))
        found.append((sides[0], sides[1]))
    return found


def test_the_loss_of_a_score_is_that_of_the_differences(
    scorer: Path, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    stage = kinds.stage_of("reward", steps=1, batch=24, center_rewards_coefficient=0.5)
    outcome = kinds.run(kinds.context_of(stage, scorer, data, tmp_path, micro_batch=24))
    pairs = scores(opened(scorer), tiny_llama, data)
    loss = sum(softplus(worse - better) + 0.5 * (better + worse) ** 2 for better, worse in pairs) / len(pairs)
    assert value(outcome, "train_loss") == pytest.approx(loss, abs=1e-5)
    share = sum(better > worse for better, worse in pairs) / len(pairs)
    assert value(outcome, "train_reward_accuracy") == pytest.approx(share)


def test_a_language_model_gets_a_new_head(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    outcome = kinds.run(kinds.context_of(kinds.stage_of("reward", steps=8, batch=8), tiny_llama, data, tmp_path))
    before, after = tensors(tiny_llama), tensors(tmp_path / "out")
    assert after.keys() == (before.keys() - {"lm_head.weight"}) | {"score.weight"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "reward"}
    heads = [(one.component, one.change, one.tensors) for one in outcome.components if one.component == "head"]
    assert heads == [("head", "added", 1), ("head", "removed", 1)]
    assert value(outcome, "train_reward_accuracy") > 0.9
    assert all(better > worse for better, worse in scores(opened(tmp_path / "out"), tiny_llama, data))


def test_a_new_head_is_trained_alone_where_it_alone_is_named(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    stage = kinds.stage_of("reward", targets="head", steps=2)
    kinds.run(kinds.context_of(stage, tiny_llama, data, tmp_path / "one"))
    before, after = tensors(tiny_llama), tensors(tmp_path / "one" / "out")
    assert all(torch.equal(before[name], after[name]) for name in before if name != "lm_head.weight")
    assert after["score.weight"].shape == (1, 32)
    kinds.run(kinds.context_of(stage, tiny_llama, data, tmp_path / "two"))
    assert training.sums(tmp_path / "one" / "out") == training.sums(tmp_path / "two" / "out")


def test_a_new_head_is_not_left_random(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        kinds.run(kinds.context_of(kinds.stage_of("reward", targets="mlp"), tiny_llama, data, tmp_path))
    assert str(caught.value) == (
        "the model's new head is random, and is not among the `targets`\n"
        '  where: targets: ["mlp"]\n'
        "  mend: name `head` in it, too"
    )


def test_an_adapter_needs_a_head_under_it(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        kinds.run(kinds.context_of(kinds.stage_of("reward", training.lora()), tiny_llama, data, tmp_path))
    assert caught.value.what == "an adapter is asked for, and the model has no head that gives one number"


def test_a_score_needs_a_padding_token(scorer: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unpadded"
    shutil.copytree(scorer, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    with pytest.raises(InvalidError) as caught:
        kinds.run(kinds.context_of(kinds.stage_of("reward"), folder, data, tmp_path / "run"))
    assert caught.value.what == "config.json names no padding token, so where a text ends cannot be told"


@pytest.mark.slow
def test_pairs_that_do_not_fit_are_left_out_whole(scorer: Path, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    lengths = [max(better.whole_tokens, worse.whole_tokens) + 1 for better, worse in answer_nats(tiny_llama, data)]
    longest = sum(length == max(lengths) for length in lengths)
    stage = kinds.stage_of("reward", targets="head", steps=1, max_length=max(lengths) - 1)
    outcome = kinds.run(kinds.context_of(stage, scorer, data, tmp_path))
    note = f"{longest} rows were left out: longer than max_length, and a score is read at the end"
    assert note in outcome.notes


def test_a_score_is_measured(scorer: Path, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    kinds.run(kinds.context_of(kinds.stage_of("reward", steps=2), scorer, data, tmp_path / "trained"))
    rows = training.data_input(data / "preference.jsonl")
    said = [{"label": name, "metric": name, "turns": "assistant"} for name in ("pair_accuracy", "pair_margin")]
    metrics = {one["label"]: Metric(metric=one["metric"], data="rows") for one in said}  # type: ignore[arg-type] # names
    stage = EvaluateStage(from_="from", against="against", metrics=metrics, batch=5)
    inputs = [
        training.model_input("from", tmp_path / "trained" / "out"),
        training.model_input("against", scorer),
        *(replace(rows, settings=one) for one in said),
    ]
    outcome = kinds.run(training.context(stage, inputs, tmp_path / "measured"))
    for name, folder in (("value", tmp_path / "trained" / "out"), ("against", scorer)):
        pairs = scores(opened(folder), tiny_llama, data)
        share = sum(better > worse for better, worse in pairs) / len(pairs)
        margin = sum(better - worse for better, worse in pairs) / len(pairs)
        assert outcome.metrics["pair_accuracy"][name] == pytest.approx(share)
        assert outcome.metrics["pair_margin"][name] == pytest.approx(margin, abs=1e-5)


def test_what_writes_has_no_score_to_measure(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    said: dict[str, Any] = {"label": "x", "metric": "pair_accuracy", "turns": "assistant"}
    rows = replace(training.data_input(data / "preference.jsonl"), settings=said)
    stage = EvaluateStage(from_="from", metrics={"x": Metric(metric="pair_accuracy", data="rows")})
    with pytest.raises(InvalidError) as caught:
        kinds.run(training.context(stage, [training.model_input("from", tiny_llama), rows], tmp_path))
    assert caught.value.what == "the model has no head that gives one number"


@pytest.mark.slow
def test_the_adapter_of_a_score_folds(scorer: Path, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    """What the fold gives scores as the model with its adapter does, the head among it."""
    stage = kinds.stage_of("reward", training.lora("attention.query", dropout=0.0), steps=2)
    kinds.run(kinds.context_of(stage, scorer, data, tmp_path / "adapter"))
    adapter = replace(training.model_input("adapter", tmp_path / "adapter" / "out"), settings={"weight": 1.0})
    fold = FoldStage(from_="from", adapters={"adapter": Weighting.of(1.0)})
    kinds.run(training.context(fold, [training.model_input("from", scorer), adapter], tmp_path / "fold"))
    folded = scores(opened(tmp_path / "fold" / "out"), tiny_llama, data)
    together = PeftModel.from_pretrained(opened(scorer), str(tmp_path / "adapter" / "out")).eval()
    assert folded == [pytest.approx(one, abs=1e-5) for one in scores(together, tiny_llama, data)]
    assert folded[0] != scores(opened(scorer), tiny_llama, data)[0]


# Rows that are held out


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind == "cpo" else pytest.mark.slow) for kind in ALL])
def test_the_loss_is_measured_on_rows_that_are_held_out(kind: str, source: Path, data: Path, tmp_path: Path) -> None:
    stage = kinds.stage_of(kind, targets=["attention.output", "norm.final"], eval_steps=2)
    context = kinds.context_of(stage, source, data, tmp_path)
    held = replace(context.one("data"), role="eval", settings={}, path=data / "held.jsonl", source="data:held.jsonl")
    rows = context.one("data").path.read_text().splitlines()[:4]
    held.path.write_text("".join(line.replace("the colour of", "the shade of") + "\n" for line in rows))
    outcome = kinds.run(replace(context, inputs=(*context.inputs, held)))
    assert math.isfinite(value(outcome, "eval_loss"))


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "orpo" else ()) for kind in ALL])
def test_rows_that_are_held_out_are_no_longer_than_the_model(
    kind: str, source: Path, data: Path, tmp_path: Path
) -> None:
    stage = kinds.stage_of(kind, targets="attention.output", eval_steps=2, max_length=4096)
    context = kinds.context_of(stage, source, data, tmp_path)
    held = replace(
        context.one("data"), role="eval", settings={}, path=tmp_path / "held.jsonl", source="data:held.jsonl"
    )
    row = context.one("data").path.read_text().splitlines()[0]
    held.path.write_text(row.replace("the colour of", "the shade of " + "the wheel and " * 60) + "\n")
    with pytest.raises(InvalidError, match="the model reads at most 128") as caught:
        kinds.run(replace(context, inputs=(*context.inputs, held)))
    assert caught.value.where == "train.max_length, with data:held.jsonl"


# The same run, the same bytes


@pytest.fixture(scope="module")
def killed(tiny_llama: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of each kind, killed in its fifth step."""
    folder = tmp_path_factory.mktemp("killed")
    for kind in ALL:
        (folder / kind).mkdir()
    command = [sys.executable, "-m", "tests.integration.preference_kinds", tiny_llama, data, folder, *ALL]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error::UserWarning", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


@pytest.mark.parametrize("kind", ALL)
def test_a_killed_training_resumes_to_the_same_bytes(
    kind: str, killed: Path, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    """A new head, too, is the one that the kill left."""
    kinds.run(kinds.resumable(kind, tiny_llama, data, tmp_path / "whole"))
    shutil.copytree(killed / kind, tmp_path / "again")
    assert (tmp_path / "again" / "work" / "checkpoint-4").is_dir()
    context = kinds.resumable(kind, tiny_llama, data, tmp_path / "again")
    outcome = kinds.run(context)
    assert "resumed from the checkpoint of step 4" in outcome.notes
    assert training.sums(context.out) == training.sums(tmp_path / "whole" / "out")


# What goes wrong


def test_kto_needs_two_rows_at_once(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    stage = kinds.stage_of("kto", training.lora())
    context = kinds.context_of(stage, tiny_llama, data, tmp_path, micro_batch=1)
    with pytest.raises(MachineError) as caught:
        kinds.run(context)
    assert caught.value.what == "the loss kto compares rows with their neighbours, and one is worked on at a time"


def test_no_answer_within_the_length(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    context = kinds.context_of(kinds.stage_of("kto", training.lora(), max_length=8), tiny_llama, data, tmp_path)
    with pytest.raises(InvalidError) as caught:
        kinds.run(context)
    assert str(caught.value) == (
        "all 48 prompts fill 8 tokens by themselves, so no answer is left to learn from\n"
        "  where: data:unpaired.jsonl\n"
        "  mend: raise max_length"
    )


def test_a_trainer_that_the_installed_version_lacks() -> None:
    with pytest.raises(MachineError) as caught:
        trainer_of("bco", "BCOConfig", "BCOTrainer")
    assert str(caught.value) == (
        "the installed TRL has no trainer for bco: No module named 'trl.experimental.bco'\n"
        "  where: trl.experimental.bco\n"
        "  mend: install trl 1.16, or train on the preferences with kind dpo"
    )
