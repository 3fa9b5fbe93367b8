"""LoRA fold of a 1.2 GB model: ours beside PEFT's load, merge_and_unload and save, and beside cp and sha256sum.

Whole processes for ours and PEFT; ours counts once more without its start-up, as cp and sha256sum start at once. Ours
writes and hashes everything that an artifact and its listing need. All files are in the page cache.

    python -m bench.fold_lora [--size-mb 1200] [--folder /tmp] [--without-peft]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench._models import SMALL, layers_for, make_model
from registry.digest import digest_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from builder.stage import Context, Input

RANK = 16
RUNS = 3
NOTHING = digest_bytes(b"")


def make_adapter(folder: Path, base: Path) -> None:
    """Write a float32 LoRA adapter on attention and MLP of every layer, trained on ``base`` by its own account."""
    import torch

    from builder.weights.folder import read_model  # noqa: PLC0415
    from builder.weights.layout import write_adapter  # noqa: PLC0415
    from registry.artifact import Artifact  # noqa: PLC0415
    from registry.provenance import Provenance, ProvenanceInput  # noqa: PLC0415

    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    for name, stored in read_model(base).tensors.items():
        if name.endswith("_proj.weight"):
            rows, columns = stored.info.shape
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) * 0.02
            tensors[f"{module}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) * 0.002
    targets = sorted({name.split(".")[-3] for name in tensors})
    trained_on = ProvenanceInput(role="from", weights_digest=_input("from", "base", base).weights_digest or NOTHING)
    folder.mkdir(parents=True)
    written = write_adapter(
        folder,
        tensors=tensors,
        config={"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "target_modules": targets},
        provenance=Provenance(kind="sft", method="lora", inputs=(trained_on,)),
    )
    Artifact.from_folder(folder, "adapter", written).write(folder)


def fold_context(base: Path, adapters: Sequence[Path], out: Path, *, threads: int, device: str = "cpu") -> Context[Any]:
    """What ``varietal run`` would give a fold stage."""
    from builder.manifest import FoldStage  # noqa: PLC0415
    from builder.runner import Runner  # noqa: PLC0415
    from builder.stage import Context  # noqa: PLC0415
    from builder.weighting import ONE  # noqa: PLC0415

    out.mkdir(parents=True)
    names = [f"adapter-{number}" for number in range(len(adapters))]
    return Context(
        settings=FoldStage(from_="base", adapters=dict.fromkeys(names, ONE)),
        inputs=(
            _input("from", "base", base),
            *(_input("adapter", name, path) for name, path in zip(names, adapters, strict=True)),
        ),
        work=out.parent,
        out=out,
        root=out.parent,
        runner=Runner(threads=threads, device="cuda" if device == "cuda" else "cpu"),
        say=lambda _: None,
    )


def _input(role: str, name: str, path: Path) -> Input:
    from builder.stage import Input  # noqa: PLC0415
    from registry.artifact import Artifact  # noqa: PLC0415

    artifact = Artifact.read(path)
    return Input(
        role=role,
        name=name,
        path=path,
        digest=artifact.digest,
        artifact=artifact,
        format="",
        settings={"weight": 1.0} if role == "adapter" else {},
        source=f"bench:{name}",
    )


def fold_here(base: Path, adapter: Path, out: Path) -> None:
    """Fold in this process; prints the seconds from after the imports to the written listing, and the peak memory."""
    from builder.stages.fold import fold  # noqa: PLC0415
    from registry.artifact import Artifact  # noqa: PLC0415

    started, cpu_started = time.perf_counter(), time.process_time()
    outcome = fold(fold_context(base, [adapter], out, threads=0))
    Artifact.from_folder(out, outcome.type, outcome.written).write(out)
    spent = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu_started}
    print(json.dumps(spent | {"peak_mib": _peak_mib()}))


def peft_here(base: Path, adapter: Path, out: Path) -> None:
    """The same by PEFT in this process; prints its peak memory."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
    print(json.dumps({"peak_mib": _peak_mib()}))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass(frozen=True, kw_only=True)
class Run:
    """Wall seconds and CPU seconds (user and system) of whole processes, and what the last one printed."""

    wall_s: float
    cpu_s: float
    found: dict[str, float]


def _timed(out: Path, *commands: Sequence[str | Path]) -> Run:
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    text = "{}"
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for command in commands:
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = text.splitlines()[-1]
    return Run(wall_s=wall_s, cpu_s=cpu_s, found=json.loads(last) if last.startswith("{") else {})


def _process(verb: str, base: Path, adapter: Path, out: Path) -> Run:
    return _timed(out, [sys.executable, "-m", "bench.fold_lora", verb, str(base), str(adapter), str(out)])


def _copy_and_hash(base: Path, out: Path) -> Run:
    copies = [out / path.name for path in sorted(base.iterdir())]
    return _timed(out, ["cp", "-r", "--reflink=never", base, out], ["sha256sum", *copies])


def _figure(bench: str, ours: float, peer: float, bound: float, unit: str) -> dict[str, Any]:
    ratio = ours / peer
    return {
        "bench": bench,
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "unit": unit,
        "ratio": round(ratio, 3),
        "bound": bound,
        "holds": ratio <= bound,
    }


def compare(folder: Path, size_bytes: int, *, with_peft: bool) -> list[dict[str, Any]]:
    """Run ours and the copy three times in turn, PEFT once; print a table of the best runs."""
    base, adapter = folder / "base", folder / "adapter"
    made = make_model(base, SMALL, layers=layers_for(SMALL, size_bytes))
    print(f"base: {made} bytes in bfloat16, LoRA of rank {RANK} on all projections")
    make_adapter(adapter, base)
    folds, copies = [], []
    for _ in range(RUNS):
        folds.append(_process("--fold", base, adapter, folder / "ours"))
        copies.append(_copy_and_hash(base, folder / "copy"))
    inside = min(run.found["wall_s"] for run in folds)
    inside_cpu = min(run.found["cpu_s"] for run in folds)
    fold, copy = min(folds, key=_wall), min(copies, key=_wall)
    peak = max(run.found["peak_mib"] for run in folds)
    rows = [
        ("ours, without start-up", inside, inside_cpu, peak),
        ("ours, whole process", fold.wall_s, fold.cpu_s, peak),
        ("cp, then sha256sum", copy.wall_s, copy.cpu_s, 0.0),
    ]
    figures = [
        _figure("fold_lora/copy", inside, copy.wall_s, 1.5, "s"),
        _figure("fold_lora/memory", peak, 500.0, 1.0, "MiB"),
    ]
    if with_peft:
        peft = _process("--peft", base, adapter, folder / "peft")
        rows.append(("PEFT, whole process", peft.wall_s, peft.cpu_s, peft.found["peak_mib"]))
        figures.append(_figure("fold_lora/peft", fold.wall_s, peft.wall_s, 1 / 2.5, "s"))
    print(f"{'best of ' + str(RUNS):24}{'wall s':>8}{'CPU s':>8}{'peak MiB':>10}")
    for name, wall_s, cpu_s, mebibytes in rows:
        print(f"{name:24}{wall_s:8.2f}{cpu_s:8.2f}{mebibytes:10.0f}")
    return figures


def _wall(run: Run) -> float:
    return run.wall_s


def main() -> None:
    """Parse, run, end with the JSON line."""
    parser = argparse.ArgumentParser(description="LoRA fold: ours, PEFT, cp and sha256sum.")
    parser.add_argument("--size-mb", type=int, default=1200, help="size of the model (default 1200)")
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: a temporary folder)")
    parser.add_argument("--without-peft", action="store_true")
    parser.add_argument("--fold", nargs=3, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peft", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fold:
        fold_here(*options.fold)
    elif options.peft:
        peft_here(*options.peft)
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            size_bytes = options.size_mb * 10**6
            print(json.dumps(compare(Path(folder), size_bytes, with_peft=not options.without_peft)))


if __name__ == "__main__":
    main()
