"""LoRA fold of an 8 B-parameter model beside cp and sha256sum, on the CPU and, where there is one, on a GPU.

Random bfloat16 weights in the shape of Llama 3 8B, 16 GB; a LoRA of rank 16 on every projection. Everything is in the
page cache if the machine has the memory. Each fold is a process of its own; what it writes is hashed as it is written,
and the artifact's listing is made. The digests of both devices must be one.

    python -m bench.fold_large [--layers 32] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench._models import LLAMA_8B, make_model
from bench.fold_lora import fold_context, make_adapter

_BOUND = 1.5


def fold_here(base: Path, adapter: Path, out: Path, device: str) -> None:
    """Fold in this process; prints seconds without start-up, peak memory and the artifact's digest."""
    import resource  # noqa: PLC0415

    import torch

    from builder.stages.fold import fold  # noqa: PLC0415
    from registry.artifact import Artifact  # noqa: PLC0415

    if device == "cuda":
        torch.zeros(1, device="cuda")  # starting the device is start-up
    started = time.perf_counter()
    outcome = fold(fold_context(base, [adapter], out, threads=0, device=device))
    artifact = Artifact.from_folder(out, outcome.type, outcome.written)
    artifact.write(out)
    print(
        json.dumps(
            {
                "wall_s": time.perf_counter() - started,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "digest": str(artifact.digest),
            }
        )
    )


def _fold(base: Path, adapter: Path, out: Path, device: str) -> dict[str, float | str]:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "bench.fold_large", "--fold", str(base), str(adapter), str(out), device]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float | str] = json.loads(text.splitlines()[-1])
    shutil.rmtree(out)
    return found


def _copy_and_hash(base: Path, out: Path) -> tuple[float, float]:
    """Seconds of cp and of sha256sum."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    subprocess.run(["cp", "-r", "--reflink=never", base, out], check=True)
    copied = time.perf_counter()
    subprocess.run(["sha256sum", *sorted(out.iterdir())], check=True, capture_output=True)
    hashed = time.perf_counter()
    shutil.rmtree(out)
    return copied - started, hashed - copied


def compare(folder: Path, layers: int) -> list[dict[str, object]]:
    """Both devices and the copy, twice in turn; print a table of the best runs."""
    import torch

    base, adapter, out = folder / "base", folder / "adapter", folder / "out"
    print(f"base: {make_model(base, LLAMA_8B, layers=layers)} bytes in bfloat16", flush=True)
    make_adapter(adapter, base)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    folds: dict[str, list[dict[str, float | str]]] = {device: [] for device in devices}
    copies = []
    for _ in range(2):
        copies.append(_copy_and_hash(base, out))
        for device in devices:
            folds[device].append(_fold(base, adapter, out, device))
            print(device, folds[device][-1], flush=True)
    copy_s = min(sum(one) for one in copies)
    best_copy = min(copies, key=sum)
    print(f"cp {best_copy[0]:.2f} s, sha256sum {best_copy[1]:.2f} s")
    digests = {one["digest"] for runs in folds.values() for one in runs}
    print("digests:", *sorted(map(str, digests)))
    if len(digests) != 1:
        sys.exit("NOT SO: every run gives the same digest")
    figures: list[dict[str, object]] = []
    for device, runs in folds.items():
        best = min(float(one["wall_s"]) for one in runs)
        figures.append(
            {
                "bench": f"fold_large/{device}",
                "ours": round(best, 2),
                "peer": round(copy_s, 2),
                "unit": "s",
                "ratio": round(best / copy_s, 3),
                "bound": _BOUND,
                "holds": best <= _BOUND * copy_s,
            }
        )
    return figures


def main() -> None:
    """Parse, run, end with the JSON line."""
    parser = argparse.ArgumentParser(description="LoRA fold of an 8 B model: ours, cp and sha256sum.")
    parser.add_argument("--layers", type=int, default=32, help="layers of the model (default 32: 16 GB)")
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: a temporary folder)")
    parser.add_argument("--fold", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fold:
        base, adapter, out, device = options.fold
        fold_here(Path(base), Path(adapter), Path(out), device)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(compare(Path(folder), options.layers)))


if __name__ == "__main__":
    main()
