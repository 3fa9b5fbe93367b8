"""The evaluate stage against an oracle that reads one token at a time, on tiny models and adapters."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer

from builder.manifest import EvaluateStage
from builder.runner import Runner
from builder.settings import Metric
from builder.stage import Context, Input
from builder.stages.evaluate import _tokens_agree, evaluate
from builder.stages.models import Opened
from registry.artifact import Artifact
from registry.digest import digest_file
from registry.errors import InvalidError, MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.stage import Outcome

TEXTS = ["the baker sells bread and the miller grinds corn", "é the sea is cold !", "x"]
CHATS = [
    [
        {"role": "user", "content": "what is the colour of the sky ?"},
        {"role": "assistant", "content": "the sky is blue"},
        {"role": "user", "content": "and the sea ?"},
        {"role": "assistant", "content": "cold"},
    ],
    [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "three four five"}],
]
PAIRS = [
    {"prompt": [CHATS[0][0]], "chosen": [CHATS[0][1]], "rejected": [{"role": "assistant", "content": "no , green"}]},
    {"prompt": [CHATS[1][0]], "chosen": [CHATS[1][1]], "rejected": [{"role": "assistant", "content": "ten"}]},
    {"prompt": [CHATS[0][2]], "chosen": [CHATS[0][3]], "rejected": [{"role": "assistant", "content": "warm and wide"}]},
]
ROWS = {
    "text": [{"text": text} for text in TEXTS],
    "messages": [{"messages": chat} for chat in CHATS],
    "preference": PAIRS,
}
FORMATS = {
    "bits_per_byte": "text",
    "loss": "messages",
    "preference_accuracy": "preference",
    "preference_margin": "preference",
    "reward_accuracy": "preference",
    "reward_margin": "preference",
    "kl": "messages",
    "top1_agreement": "messages",
}


@dataclass
class Bench:
    """Builds contexts of evaluate over tiny folders."""

    folder: Path
    said: list[str] = field(default_factory=list)
    runs: int = 0

    def artifact(self, role: str, path: Path, kind: str = "model") -> Input:
        artifact = Artifact.from_folder(path, kind)  # type: ignore[arg-type]
        return Input(
            role=role,
            name=f"{role}-name",
            path=path,
            digest=artifact.digest,
            artifact=artifact,
            format="",
            settings={},
            source=f"x:{role}",
        )

    def data(self, label: str, metric: str, data_format: str, turns: str = "assistant") -> Input:
        path = self.folder / f"{data_format}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[data_format]))
        return Input(
            role="data",
            name=data_format,
            path=path,
            digest=digest_file(path),
            artifact=None,
            format=data_format,
            settings={"label": label, "metric": metric, "turns": turns},
            source=f"data:{data_format}.jsonl",
        )

    def run(self, *inputs: Input, runner: Runner | None = None, **settings: int) -> tuple[Outcome, dict[str, Any]]:
        self.runs += 1
        out, work = self.folder / f"out-{self.runs}", self.folder / f"work-{self.runs}"
        out.mkdir()
        work.mkdir()
        metrics = {
            str(one.settings["label"]): Metric(metric=str(one.settings["metric"]), data=one.name)  # type: ignore[arg-type]
            for one in inputs
            if one.role == "data"
        }
        stage = EvaluateStage(from_="x", metrics=metrics, **settings)
        outcome = evaluate(
            Context(
                settings=stage,
                inputs=inputs,
                work=work,
                out=out,
                root=self.folder,
                runner=runner or Runner(device="cpu", threads=1),
                say=self.said.append,
            )
        )
        return outcome, json.loads((out / "metrics.json").read_bytes())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(folder=tmp_path)


@pytest.fixture
def other(make_model: Callable[..., Path]) -> Path:
    return make_model("llama", seed=1)


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(
        r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False, lora_alpha=16, task_type="CAUSAL_LM"
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), config).save_pretrained(folder)
    return folder


class Oracle:
    """Plain loops over one token at a time; what counts is found by the texts, not by the code under test."""

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()

    def rows(self, ids: Sequence[int], start: int) -> list[list[float]]:
        """Log-probabilities before each token from ``start`` on."""
        found = []
        for place in range(start, len(ids)):
            with torch.no_grad():
                logits = self.model(torch.tensor([list(ids[:place])])).logits[0, -1].tolist()
            top = max(logits)
            total = top + math.log(math.fsum(math.exp(value - top) for value in logits))
            found.append([value - total for value in logits])
        return found

    def nats(self, ids: Sequence[int], start: int) -> float:
        rows = self.rows(ids, start)
        return -math.fsum(row[token] for row, token in zip(rows, ids[start:], strict=True))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def bits_per_byte(self) -> float:
        end = self.tokenizer.eos_token_id
        nats = math.fsum(self.nats([end, *self.encode(text)], 1) for text in TEXTS)
        return nats / math.log(2) / sum(len(text.encode()) for text in TEXTS)

    def answers(self) -> list[tuple[list[int], int]]:
        """Every answer as the ids up to its end, and the place where it begins."""
        found = []
        for chat in CHATS:
            text = ""
            for message in chat:
                text += f"<|{message['role']}|>"
                start = len(self.encode(text))
                text += f"{message['content']}<|end|>"
                if message["role"] == "assistant":
                    found.append((self.encode(text), start))
        return found

    def loss(self) -> float:
        answers = self.answers()
        return math.fsum(self.nats(*one) for one in answers) / sum(len(ids) - start for ids, start in answers)

    def margins(self) -> list[float]:
        found = []
        for pair in PAIRS:
            prompt = f"<|user|>{pair['prompt'][0]['content']}<|end|><|assistant|>"
            start = len(self.encode(prompt))
            chosen, rejected = (
                self.nats(self.encode(f"{prompt}{pair[name][0]['content']}<|end|>"), start)
                for name in ("chosen", "rejected")
            )
            found.append(rejected - chosen)
        return found

    def preference_accuracy(self) -> float:
        return sum(margin > 0 for margin in self.margins()) / len(PAIRS)

    def preference_margin(self) -> float:
        return math.fsum(self.margins()) / len(PAIRS)

    def rewards(self, against: Oracle) -> list[float]:
        return [one - other for one, other in zip(self.margins(), against.margins(), strict=True)]

    def reward_accuracy(self, against: Oracle) -> float:
        return sum(reward > 0 for reward in self.rewards(against)) / len(PAIRS)

    def reward_margin(self, against: Oracle) -> float:
        return math.fsum(self.rewards(against)) / len(PAIRS)

    def both(self, against: Oracle) -> list[tuple[list[float], list[float]]]:
        pairs: list[tuple[list[float], list[float]]] = []
        for one in self.answers():
            pairs += zip(self.rows(*one), against.rows(*one), strict=True)
        return pairs

    def kl(self, against: Oracle) -> float:
        pairs = self.both(against)
        return math.fsum(math.exp(p) * (p - q) for ps, qs in pairs for p, q in zip(ps, qs, strict=True)) / len(pairs)

    def top1_agreement(self, against: Oracle) -> float:
        pairs = self.both(against)
        return sum(ps.index(max(ps)) == qs.index(max(qs)) for ps, qs in pairs) / len(pairs)


def expected(metric: str, one: Oracle, other: Oracle) -> dict[str, float]:
    if metric in {"reward_accuracy", "reward_margin", "kl", "top1_agreement"}:
        return {"value": getattr(one, metric)(other)}
    return {"value": getattr(one, metric)(), "against": getattr(other, metric)()}


def all_metrics(bench: Bench) -> list[Input]:
    return [bench.data(metric, metric, data_format) for metric, data_format in FORMATS.items()]


def close(found: Mapping[str, Mapping[str, float]], wanted: Mapping[str, Mapping[str, float]]) -> None:
    assert found.keys() == wanted.keys()
    for label, figures in wanted.items():
        assert found[label] == pytest.approx(figures, abs=1e-5), label


def test_every_metric_of_two_models_equals_the_oracle(bench: Bench, tiny_llama: Path, other: Path) -> None:
    outcome, report = bench.run(
        bench.artifact("from", tiny_llama), bench.artifact("against", other), *all_metrics(bench), batch=2
    )
    one, two = Oracle(tiny_llama), Oracle(other)
    close(outcome.metrics, {metric: expected(metric, one, two) for metric in FORMATS})
    assert (outcome.type, outcome.micro_batch, outcome.components, outcome.written) == ("report", 2, (), ())
    assert outcome.notes == ("max_length is 128 tokens, the networks' context",)
    tokens = sum(len(ids) - start for ids, start in one.answers())
    loss = next(entry for entry in report["metrics"] if entry["label"] == "loss")
    assert loss == {
        "label": "loss",
        "metric": "loss",
        "data": str(digest_file(bench.folder / "messages.jsonl")),
        "turns": "assistant",
        "value": outcome.metrics["loss"]["value"],
        "against": outcome.metrics["loss"]["against"],
        "rows": 2,
        "tokens": tokens,
        "bytes": 0,
        "truncated": 0,
        "silent": 0,
    }
    assert report["schema"] == "varietal/metrics/1"
    assert [entry["label"] for entry in report["metrics"]] == sorted(FORMATS)
    value, against = (outcome.metrics["loss"][key] for key in ("value", "against"))
    assert f"loss: {value:.6g} (against {against:.6g}) over 2 rows, {tokens} tokens" in bench.said


def test_adapters_over_their_bases(bench: Bench, tiny_llama: Path, adapter: Path) -> None:
    """The adapter under ``from``, its base under ``against``; then the other way round."""
    wanted = [bench.data(metric, metric, FORMATS[metric]) for metric in ("bits_per_byte", "kl", "reward_margin")]
    one, two = Oracle(tiny_llama, adapter), Oracle(tiny_llama)
    outcome, _ = bench.run(
        bench.artifact("from", adapter, "adapter"),
        bench.artifact("base", tiny_llama),
        bench.artifact("against", tiny_llama),
        *wanted,
    )
    close(outcome.metrics, {metric: expected(metric, one, two) for metric in outcome.metrics})
    assert outcome.metrics["kl"]["value"] > 1e-3
    turned, _ = bench.run(
        bench.artifact("from", tiny_llama),
        bench.artifact("against", adapter, "adapter"),
        bench.artifact("against_base", tiny_llama),
        *wanted,
    )
    close(turned.metrics, {metric: expected(metric, two, one) for metric in turned.metrics})


def test_gpt2_alone(bench: Bench, tiny_gpt2: Path) -> None:
    wanted = [bench.data(metric, metric, FORMATS[metric]) for metric in ("bits_per_byte", "loss", "preference_margin")]
    outcome, _ = bench.run(bench.artifact("from", tiny_gpt2), *wanted, batch=3)
    one = Oracle(tiny_gpt2)
    close(outcome.metrics, {metric: {"value": getattr(one, metric)()} for metric in outcome.metrics})


def test_the_batch_says_nothing_and_twice_is_the_same(bench: Bench, tiny_llama: Path, other: Path) -> None:
    inputs = [bench.artifact("from", tiny_llama), bench.artifact("against", other), *all_metrics(bench)]
    first, report = bench.run(*inputs, batch=1)
    again, same = bench.run(*inputs, batch=1)
    assert (first.metrics, report) == (again.metrics, same)
    for batch in (2, 64):
        close(bench.run(*inputs, batch=batch)[0].metrics, first.metrics)


def test_the_machines_micro_batch_comes_first(bench: Bench, tiny_llama: Path) -> None:
    runner = Runner(device="cpu", threads=1, micro_batch=5)
    outcome, _ = bench.run(
        bench.artifact("from", tiny_llama), bench.data("loss", "loss", "text"), runner=runner, batch=2
    )
    assert outcome.micro_batch == 5


def test_windows_measure_every_token(bench: Bench, tiny_llama: Path) -> None:
    outcome, report = bench.run(
        bench.artifact("from", tiny_llama), bench.data("bits", "bits_per_byte", "text"), max_length=8
    )
    one = Oracle(tiny_llama)
    nats, tokens = [], 0
    for text in TEXTS:
        ids = [one.tokenizer.eos_token_id, *one.encode(text)]
        tokens += len(ids) - 1
        # Seven tokens to a window, read after the last of the window before it.
        nats += [one.nats(ids[start : start + 8], 1) for start in range(0, len(ids) - 1, 7)]
    size_bytes = sum(len(text.encode()) for text in TEXTS)
    assert outcome.metrics["bits"]["value"] == pytest.approx(math.fsum(nats) / math.log(2) / size_bytes, abs=1e-5)
    assert (report["metrics"][0]["tokens"], report["metrics"][0]["bytes"]) == (tokens, size_bytes)
    assert report["max_length"] == 8


def test_labels_turns_and_limit(bench: Bench, tiny_llama: Path) -> None:
    wanted = [bench.data(f"on-{turns}", "loss", "messages", turns) for turns in ("assistant", "user", "all", "last")]
    _, report = bench.run(bench.artifact("from", tiny_llama), *wanted, bench.data("text", "loss", "text"), limit=1)
    rows = {entry["label"]: entry["rows"] for entry in report["metrics"]}
    assert set(rows.values()) == {1}
    tokens = {entry["label"]: entry["tokens"] for entry in report["metrics"]}
    assert tokens["on-last"] < tokens["on-assistant"] < tokens["on-assistant"] + tokens["on-user"] < tokens["on-all"]
    assert {entry["label"]: entry["turns"] for entry in report["metrics"]}["text"] == ""


def test_rows_that_are_cut_are_noted(bench: Bench, tiny_llama: Path) -> None:
    outcome, _ = bench.run(bench.artifact("from", tiny_llama), bench.data("loss", "loss", "messages"), max_length=24)
    assert outcome.notes == ("messages: 1 rows were longer than max_length and lost their end",)


def test_a_model_against_itself(bench: Bench, tiny_llama: Path) -> None:
    outcome, _ = bench.run(
        bench.artifact("from", tiny_llama), bench.artifact("against", tiny_llama), *all_metrics(bench)
    )
    assert outcome.metrics["kl"] == {"value": 0.0}
    assert outcome.metrics["top1_agreement"] == {"value": 1.0}
    assert outcome.metrics["reward_margin"] == {"value": 0.0}
    assert outcome.metrics["reward_accuracy"] == {"value": 0.0}  # a tie is no win
    assert outcome.metrics["loss"]["value"] == outcome.metrics["loss"]["against"]


def retold(folder: Path, target: Path) -> Path:
    """A copy whose chat template reads otherwise."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    template = target / "chat_template.jinja"
    template.write_text(template.read_text().replace("'<|'", "'<<|'"))
    return target


def test_artifacts_that_read_otherwise_are_not_compared(bench: Bench, tiny_llama: Path) -> None:
    other = retold(tiny_llama, bench.folder / "retold")
    sides = (bench.artifact("from", tiny_llama), bench.artifact("against", other))
    with pytest.raises(InvalidError) as caught:
        bench.run(*sides, bench.data("drift", "kl", "messages"))
    assert str(caught.value) == (
        "from: from-name and against: against-name differ in vocabulary, tokenizer or chat template\n"
        "  where: metrics.drift\n"
        "  mend: compare artifacts that read alike; bits_per_byte, loss and preference metrics need no such likeness"
    )
    outcome, _ = bench.run(*sides, bench.data("drift", "kl", "text"), bench.data("loss", "loss", "messages"))
    assert outcome.metrics["drift"] == {"value": 0.0}  # a text needs no template
    assert outcome.metrics["loss"]["value"] != outcome.metrics["loss"]["against"]


def test_tokenizers_written_in_python_are_compared_by_vocabulary() -> None:
    def opened(extra_ids: int) -> Opened:
        config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=300))
        return Opened(model=SimpleNamespace(config=config), tokenizer=ByT5Tokenizer(extra_ids=extra_ids), where="x")

    assert _tokens_agree([opened(2), opened(2)], "text")
    assert not _tokens_agree([opened(2), opened(3)], "text")


def test_a_metric_on_data_of_another_format(bench: Bench, tiny_llama: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        bench.run(bench.artifact("from", tiny_llama), bench.data("bits", "bits_per_byte", "messages"))
    assert str(caught.value) == (
        "bits_per_byte is measured on text, and messages is messages\n"
        "  where: metrics.bits\n"
        "  mend: name other data, or another metric"
    )


@pytest.mark.parametrize("metric", ["kl", "top1_agreement", "reward_accuracy", "reward_margin"])
def test_a_comparison_needs_another_artifact(bench: Bench, tiny_llama: Path, metric: str) -> None:
    with pytest.raises(InvalidError) as caught:
        bench.run(bench.artifact("from", tiny_llama), bench.data("x", metric, FORMATS[metric]))
    assert caught.value.what == f"{metric} compares two artifacts, and there is no `against:`"


def test_an_adapter_without_its_base(bench: Bench, adapter: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        bench.run(bench.artifact("from", adapter, "adapter"), bench.data("loss", "loss", "text"))
    assert caught.value.what == "from-name is an adapter and the model under it is not given"


def test_weights_that_are_no_numbers(bench: Bench, tiny_llama: Path) -> None:
    broken = retold(tiny_llama, bench.folder / "broken")
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.lm_head.weight.data[3] = math.nan
    model.save_pretrained(broken)
    with pytest.raises(MachineError) as caught:
        bench.run(bench.artifact("from", broken), bench.data("loss", "loss", "text"))
    assert str(caught.value) == (
        "loss is nan, no number\n"
        "  where: metrics.loss\n"
        "  mend: look for weights that are no numbers in the artifacts measured; a training may have diverged"
    )


def test_a_malformed_row_names_file_and_line(bench: Bench, tiny_llama: Path) -> None:
    data = bench.data("loss", "loss", "text")
    data.path.write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(InvalidError) as caught:
        bench.run(bench.artifact("from", tiny_llama), replace(data, source="data:heldout.jsonl"))
    (fault,) = caught.value.faults
    assert (fault.file, fault.line) == ("heldout.jsonl", 2)
