"""Training stages beside raw TRL: the same model, rows, steps and batch, each run in a process of its own.

The model is a Llama of 1.1 B random weights, the rows are random walks over a table of words, so that there is
something to learn. Raw TRL is what its documentation shows: a configuration, a trainer, `train()`, `save_model()`. Ours
is the stage function on an artifact and a data file, as `varietal run` calls it. Times are those of steps in the second
half of a run, on the device; the loss is the mean of the last tenth.

    python -m bench.training [--steps 300] [--short 100] [--only sft-lora,sft-full,dpo-lora] [--small]

`--small` runs all of it on a network of two layers, on the CPU if there is no GPU: it shows that the script runs.
"""

# ruff: noqa: ANN401, PLC0415 - TRL has no types; each child imports the side that it runs, and times that
from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

BOUNDS: Final = {"sft-lora": 1.4, "sft-full": 1.2, "dpo-lora": 2.5}
_WORDS, _ROW = 32_000, 1024
_BATCH, _RATE_ADAPTER, _RATE_FULL = 8, 2e-4, 2e-5
_FILL, _END, _UNKNOWN = "<pad>", "<eos>", "<unk>"
_FOLLOWS: Final = 0.9  # share of words that come from the table
_SEEDS: Final = (0, 1, 2)
_SPREAD_AT: Final = (30, 60, 100)  # steps after which the losses of several seeds are held together


def prepare(folder: Path, *, small: bool, rows: int) -> None:
    """Write the model, its tokenizer and the data."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = 200 if small else _WORDS
    vocabulary = {_FILL: 0, _END: 1, _UNKNOWN: 2} | {f"w{number}": number for number in range(3, words)}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    shape = (64, 128, 2, 4, 2) if small else (2048, 5632, 22, 32, 4)
    hidden, inner, layers, heads, keys = shape
    torch.manual_seed(0)
    configuration = LlamaConfig(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=2 * _ROW,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(configuration).save_pretrained(folder / "model")
    PreTrainedTokenizerFast(tokenizer_object=bare, pad_token=_FILL, eos_token=_END, unk_token=_UNKNOWN).save_pretrained(
        folder / "model"
    )
    draw = random.Random(0)  # noqa: S311 - words of a bench, nothing secret
    follows = [[draw.randrange(3, words) for _ in range(4)] for _ in range(words)]

    def walk(length: int) -> str:
        word, found = draw.randrange(3, words), []
        for _ in range(length):
            found.append(f"w{word}")
            word = draw.choice(follows[word]) if draw.random() < _FOLLOWS else draw.randrange(3, words)
        return " ".join(found)

    scale = 16 if small else 1
    texts = [{"text": walk(_ROW // scale)} for _ in range(rows)]
    pairs = [
        {
            "prompt": walk(draw.randrange(40, 300) // scale + 1),
            "chosen": " " + walk(draw.randrange(60, 700) // scale + 1),
            "rejected": " " + walk(draw.randrange(60, 700) // scale + 1),
        }
        for _ in range(rows)
    ]
    for name, table in (("text", texts), ("preference", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))


def child(side: str, case: str, folder: Path, steps: int, seed: int, *, small: bool) -> dict[str, Any]:
    """One training, in this process."""
    began = time.perf_counter()
    times: list[float] = []
    run = _ours if side == "ours" else _raw
    losses, tokens, reference_s = run(case, folder, steps, seed, small=small, times=times)
    import torch

    whole = time.perf_counter() - began
    half = times[len(times) // 2 :]
    gaps = [after - before for before, after in pairwise(half)]
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "step_s": statistics.median(gaps),
        "mean_step_s": (half[-1] - half[0]) / max(1, len(half) - 1),
        "first_s": times[0] - began,
        "train_s": times[-1] - began,
        "after_s": whole - (times[-1] - began),
        "tokens": tokens,
        "reference_s": reference_s,
        "loss": statistics.mean(tail),
        "loss_at": {
            str(step): statistics.mean(losses[step - step // 10 : step]) for step in _SPREAD_AT if step <= len(losses)
        },
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0,
    }


def _ours(
    case: str, folder: Path, steps: int, seed: int, *, small: bool, times: list[float]
) -> tuple[list[float], float, float]:
    from builder.kinds import KINDS
    from builder.manifest import DpoStage, SftStage
    from builder.runner import Runner
    from builder.shapes import Reading
    from builder.stage import Context, Input
    from builder.tables import read
    from registry.artifact import Artifact
    from registry.digest import digest_file

    kind, form = ("dpo", "preference") if case.startswith("dpo") else ("sft", "text")
    adapter = {"adapter": {"rank": 16, "alpha": 32, "targets": ["attention", "mlp"]}} if case.endswith("lora") else {}
    train: dict[str, Any] = {
        "steps": steps,
        "batch": _BATCH,
        "seed": seed,
        "schedule": "constant",
        "max_length": _ROW // 16 if small else _ROW,
        "learning_rate": _RATE_ADAPTER if adapter else _RATE_FULL,
        "precision": "mixed-bfloat16",
        **({"loss_on": "all"} if kind == "sft" else {}),
    }
    reading = Reading(file="bench")
    table: Any = SftStage if kind == "sft" else DpoStage
    written: dict[str, Any] = {"kind": kind, "from": "from", "data": "data", **adapter, "train": train}
    settings = read(table, written, reading)
    if settings is None or reading.faults:
        raise SystemExit(f"settings: {reading.faults}")
    model, data, place = folder / "model", folder / f"{form}.jsonl", folder / f"{case}-{seed}"
    artifact = Artifact.from_folder(model, "model")
    artifact.write(model)
    (place / "work").mkdir(parents=True)
    (place / "out").mkdir()
    inputs = (
        Input(
            role="from",
            name="from",
            path=model,
            digest=artifact.digest,
            artifact=artifact,
            format="",
            settings={},
            source="from",
        ),
        Input(
            role="data",
            name="data",
            path=data,
            digest=digest_file(data),
            artifact=None,
            format=form,
            settings={},
            source=f"data:{data.name}",
        ),
    )
    context: Context[Any] = Context(
        settings=settings,
        inputs=inputs,
        work=place / "work",
        out=place / "out",
        root=folder,
        runner=Runner(micro_batch=_BATCH, checkpoint_steps=10**6, compile=os.environ.get("BENCH_COMPILE", "always")),  # type: ignore[arg-type]
        say=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    )
    history: list[float] = []
    _watch_steps(times, history)
    spent = _watch_reference() if kind == "dpo" else [0.0]
    outcome = KINDS[kind].load()(context)
    Artifact.from_folder(place / "out", outcome.type, outcome.written)
    return history, outcome.metrics["tokens"]["value"] / steps, sum(spent)


def _watch_reference() -> list[float]:
    """Time the passes of the reference that go before the first step."""
    import builder.engines.dpo

    engine: Any = builder.engines.dpo

    spent: list[float] = []
    work = engine.reference_log_probs

    def timed(*args: Any, **more: Any) -> Any:
        began = time.perf_counter()
        found = work(*args, **more)
        spent.append(time.perf_counter() - began)
        return found

    engine.reference_log_probs = timed
    return spent


def _watch_steps(times: list[float], losses: list[float]) -> None:
    """Time each step and keep its loss, by a callback of every trainer that is made from now on."""
    from transformers import Trainer

    begin = Trainer.train

    def train(self: Any, *args: Any, **more: Any) -> Any:
        self.add_callback(_callback(times, losses))
        return begin(self, *args, **more)

    Trainer.train = train


def _callback(times: list[float], losses: list[float]) -> Any:
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())

        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    return Clock()


def _raw(
    case: str, folder: Path, steps: int, seed: int, *, small: bool, times: list[float]
) -> tuple[list[float], float, float]:
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cuda = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16).to("cuda" if cuda else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    adapter = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    length = _ROW // 16 if small else _ROW
    common: dict[str, Any] = {
        "output_dir": str(folder / f"raw-{case}-{seed}"),
        "max_steps": steps,
        "per_device_train_batch_size": _BATCH,
        "learning_rate": _RATE_ADAPTER if case.endswith("lora") else _RATE_FULL,
        "lr_scheduler_type": "constant",
        "seed": seed,
        "bf16": True,
        "use_cpu": not cuda,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": length,
    }
    name = "preference" if case.startswith("dpo") else "text"
    data = load_dataset(
        "json", data_files=str(folder / f"{name}.jsonl"), split="train", cache_dir=str(folder / "cache")
    )
    losses: list[float] = []
    wrapped = {"peft_config": adapter} if case.endswith("lora") else {}
    if case.startswith("dpo"):
        from trl import DPOConfig, DPOTrainer

        trainer: Any = DPOTrainer(
            model=model, args=DPOConfig(**common), train_dataset=data, processing_class=tokenizer, **wrapped
        )
    else:
        from trl import SFTConfig, SFTTrainer

        trainer = SFTTrainer(
            model=model, args=SFTConfig(**common), train_dataset=data, processing_class=tokenizer, **wrapped
        )
    trainer.add_callback(_callback(times, losses))
    trainer.train()
    trainer.save_model()
    return losses, 0.0, 0.0


def _spawn(side: str, case: str, folder: Path, steps: int, seed: int, *, small: bool) -> dict[str, Any]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "bench.training",
        "--child",
        side,
        case,
        str(folder),
        str(steps),
        str(seed),
    ]
    began = time.perf_counter()
    done = subprocess.run([*command, *(["--small"] if small else [])], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} {case} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["process_s"] = time.perf_counter() - began
    show = {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}
    print(f"{side:5} {case} seed {seed}, {steps} steps: {show}", flush=True)
    return found


def main() -> None:
    """Run what was asked for and print a table, then a line of JSON for each bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--short", type=int, default=100)
    parser.add_argument("--only", default=",".join(BOUNDS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--child", nargs=5)
    asked = parser.parse_args()
    if asked.child:
        side, case, folder, steps, seed = asked.child
        print(json.dumps(child(side, case, Path(folder), int(steps), int(seed), small=asked.small)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        prepare(folder, small=asked.small, rows=_BATCH * asked.steps)
        lines = [_compare(case, folder, asked.steps, asked.short, small=asked.small) for case in asked.only.split(",")]
    for line in lines:
        print(json.dumps(line))


def _compare(case: str, folder: Path, steps: int, short: int, *, small: bool) -> dict[str, Any]:
    whole = steps if case == "sft-lora" else short
    ours = _spawn("ours", case, folder, whole, 0, small=small)
    raw = _spawn("raw", case, folder, whole, 0, small=small)
    losses = [raw["loss"]]
    if case == "sft-lora":
        at = str(max(step for step in _SPREAD_AT if step <= short)) if short >= _SPREAD_AT[0] else None
        others = [_spawn("raw", case, folder, short, seed, small=small) for seed in _SEEDS[1:]]
        if at is not None:
            losses = [one["loss_at"][at] for one in (raw, *others)]
            print(f"loss after {at} steps: ours {ours['loss_at'][at]:.4f}, raw {min(losses):.4f} to {max(losses):.4f}")
    # What goes before the steps of ours and not of raw TRL's, its reference pass, is counted with the steps.
    ours_s, raw_s = ours["mean_step_s"], raw["mean_step_s"]
    if case.startswith("dpo"):
        ours_s = ours["mean_step_s"] + ours["reference_s"] / whole
    return {
        "bench": f"training/{case}",
        "ours": round(ours_s, 4),
        "peer": round(raw_s, 4),
        "unit": "s a step",
        "ratio": round(raw_s / ours_s, 3),
        "bound": BOUNDS[case],
        "holds": raw_s / ours_s >= BOUNDS[case],
    }


if __name__ == "__main__":
    main()
