"""One training on one GPU and on several: the same rows, steps and global batch, each run in processes of its own.

The model and the rows are those of `bench.training`: a Llama of 1.1 B random weights. On several GPUs the weights are
whole on each (DDP), or in parts (FSDP2). Tokens a second are those after the first step; peak memory is what the
driver says each GPU had in use at most; the loss is the mean of the last tenth of the steps.

    python -m bench.devices [--processes 2] [--steps 20] [--compile never] [--small]

`--small` runs a network of two layers, on processors where there is no GPU (without FSDP2, which takes GPUs): it shows
that the script runs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from builder.call import call
from builder.manifest import SftStage
from builder.runner import Runner
from builder.shapes import Reading
from builder.stage import Context, Input
from builder.tables import read
from registry.artifact import Artifact
from registry.digest import digest_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FASTER: Final = 1.6  # two GPUs beside one
LEANER: Final = 0.75  # memory of a GPU with full training in parts, beside a GPU with all of it
CLOSE: Final = 0.01  # of the loss, relative: the split changes rounding alone
_ROW, _MICRO_BATCH, _SAMPLE_S, _LONGEST_S = 1024, 8, 0.25, 150
_MAKE: Final = """
import sys
from pathlib import Path
from bench.training import prepare
prepare(Path(sys.argv[1]), small=sys.argv[2] == "1", rows=int(sys.argv[3]))
"""
_PACE: Final = re.compile(r"step (\d+) of \d+, loss (\S+?)(?:, ([\d,]+) tokens/s)?(?:,.*)?")


def child(case: str, folder: Path, runner: Runner, *, steps: int, row: int) -> None:
    """One training, started from this process; the last line says how it went."""
    place = folder / f"{case}-{runner.processes}-{runner.sharding}"
    for name in ("work", "out"):
        (place / name).mkdir(parents=True)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(f"  {line}", file=sys.stderr, flush=True)

    context: Context[SftStage] = Context(
        settings=_stage(case, steps=steps, row=row),
        inputs=_inputs(folder),
        work=place / "work",
        out=place / "out",
        root=folder,
        runner=runner,
        say=say,
    )
    outcome = call("sft", context, where="bench:sft")
    Artifact.from_folder(context.out, outcome.type, outcome.written)
    told = [found for line in lines if (found := _PACE.fullmatch(line))]
    facts = {name: outcome.environment.get(name, "") for name in ("processes", "accumulation", "sharding")}
    result = {
        "tokens_s": float((told[-1][3] or "0").replace(",", "")),
        "loss": outcome.metrics["train_loss"]["value"],
        "losses": [float(one[2]) for one in told],
        "device": outcome.device,
        **facts,
    }
    print(json.dumps(result))


def _stage(case: str, *, steps: int, row: int) -> SftStage:
    lora: dict[str, Any] = {"rank": 16, "alpha": 32, "targets": ["attention", "mlp"]}
    adapter: dict[str, Any] = {"adapter": lora} if case == "lora" else {}
    train: dict[str, Any] = {
        "steps": steps,
        "batch": 2 * _MICRO_BATCH,
        "schedule": "constant",
        "max_length": row,
        "learning_rate": 2e-4 if adapter else 2e-5,
        "precision": "mixed-bfloat16",
        "loss_on": "all",
    }
    reading = Reading(file="bench")
    stage = read(SftStage, {"kind": "sft", "from": "from", "data": "data", **adapter, "train": train}, reading)
    if stage is None or reading.faults:
        message = f"settings: {reading.faults}"
        raise SystemExit(message)
    return stage


def _inputs(folder: Path) -> tuple[Input, ...]:
    model, data = folder / "model", folder / "text.jsonl"
    artifact = Artifact.read(model)
    return (
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
            format="text",
            settings={},
            source="data:text.jsonl",
        ),
    )


def _spawn(case: str, folder: Path, processes: int, sharding: str, options: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "bench.devices", "--child", case, str(folder), str(processes)]
    began = time.perf_counter()
    peaks: dict[str, float] = {}
    over = threading.Event()
    watching = threading.Thread(target=_watch, args=(peaks, over))
    watching.start()
    try:
        done = subprocess.run(
            [*command, sharding, *options], stdout=subprocess.PIPE, text=True, check=False, timeout=_LONGEST_S
        )
    finally:
        over.set()
        watching.join()
    if done.returncode:
        return {"failed": done.returncode}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "peak_gib": peaks, "whole_s": time.perf_counter() - began}


def _watch(peaks: dict[str, float], over: threading.Event) -> None:
    """The most memory that the driver says each GPU had in use, GiB."""
    command = ("nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits")
    while not over.wait(_SAMPLE_S):
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
        except (OSError, subprocess.SubprocessError):
            return
        for line in said.splitlines():
            index, used = line.split(", ")
            peaks[index] = max(peaks.get(index, 0.0), int(used) / 1024)


def _figures(case: str, runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is held against a bound: speed beside one GPU at the same loss; memory where the weights are in parts."""
    one = runs["one"]
    found: list[dict[str, Any]] = []
    for name, run in runs.items():
        if name == "one":
            continue
        if "failed" in run or "failed" in one:
            found.append({"bench": f"devices-{case}-{name}", "holds": False, "failed": True})
            continue
        off = abs(run["loss"] - one["loss"]) / one["loss"]
        bound = FASTER if name == "ddp" else 1.0
        speed = _figure(f"devices-{case}-{name}", run["tokens_s"], one["tokens_s"], "tokens/s", bound)
        found.append({**speed, "holds": speed["ratio"] >= bound and off <= CLOSE, "loss": [run["loss"], one["loss"]]})
        if name == "fsdp2" and case == "full" and run["peak_gib"] and one["peak_gib"]:
            peaks = max(run["peak_gib"].values()), max(one["peak_gib"].values())
            memory = _figure("devices-full-fsdp2-memory", *peaks, "GiB on a GPU", LEANER)
            found.append({**memory, "holds": memory["ratio"] <= LEANER})
    return found


def _figure(bench: str, ours: float, peer: float, unit: str, bound: float) -> dict[str, Any]:
    ratio = round(ours / peer, 3) if peer else 0.0
    return {"bench": bench, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "bound": bound}


def _cases(folder: Path, processes: int, options: Sequence[str]) -> list[dict[str, Any]]:
    """Every case, one after the other."""
    sides = {"one": (1, "none"), "ddp": (processes, "none"), **({"fsdp2": (processes, "fsdp2")} if _has_gpu() else {})}
    figures: list[dict[str, Any]] = []
    for case in ("lora", "full"):
        runs: dict[str, dict[str, Any]] = {}
        for side, (count, sharding) in sides.items():
            runs[side] = _spawn(case, folder, count, sharding, options)
            print(case, side, json.dumps(runs[side]), flush=True)
        figures += _figures(case, runs)
    return figures


def _has_gpu() -> bool:
    try:
        said = subprocess.run(("nvidia-smi", "-L"), capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return bool(said.strip())


def main() -> int:
    """Run all cases, print a table and the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", default="never", choices=("auto", "always", "never"))
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    if asked.child:
        case, place, processes, sharding = asked.child
        runner = Runner(
            processes=int(processes),
            sharding=sharding,
            micro_batch=_MICRO_BATCH,
            checkpoint_steps=10**6,
            compile=asked.compile,
        )
        child(case, Path(place), runner, steps=asked.steps, row=_ROW // 16 if asked.small else _ROW)
        return 0
    options = ["--steps", str(asked.steps), "--compile", asked.compile, *(["--small"] if asked.small else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Made in a process of its own, which leaves the GPU as it was.
        made = (name, str(int(asked.small)), str(2 * _MICRO_BATCH * asked.steps))
        subprocess.run([sys.executable, "-W", "ignore", "-c", _MAKE, *made], check=True)
        Artifact.from_folder(folder / "model", "model").write(folder / "model")
        figures = _cases(folder, asked.processes, options)
    print(json.dumps(figures))
    return 0 if all(one["holds"] for one in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
