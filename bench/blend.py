"""Blends of whole models: ours beside mergekit's, whole processes; linear of two models, and ties of two over a base.

mergekit runs in an environment of its own, which the bench makes the first time (some minutes), or in the one that
--peer names. All files are in the page cache. Memory is what a process takes above `import torch` alone, at both sizes.

    python -m bench.blend [--size-mb 1200] [--large-mb 4000] [--peer PYTHON] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench._models import SMALL, layers_for, make_model

_MEMORY_BOUND_MIB: Final = 400
_BOUNDS: Final = {"linear": 1 / 2, "ties": 1 / 8}
_PEER: Final = Path(".varietal/bench/mergekit")
_PACKAGES: Final = ("torch==2.13.0", "mergekit==0.1.5", "transformers==5.23.0")

_RECIPES: Final = {
    "linear": """\
merge_method: linear
models:
- {{model: {one}, parameters: {{weight: 0.6}}}}
- {{model: {two}, parameters: {{weight: 0.4}}}}
dtype: bfloat16
""",
    "ties": """\
merge_method: ties
base_model: {base}
models:
- {{model: {one}, parameters: {{weight: 0.6, density: 0.5}}}}
- {{model: {two}, parameters: {{weight: 0.4, density: 0.5}}}}
parameters: {{normalize: true}}
dtype: bfloat16
""",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """Wall seconds of a whole process, and its peak memory."""

    wall_s: float
    peak_mib: float


def blend_here(method: str, models: Path, out: Path) -> None:
    """Blend in this process, as a stage does, with all hashes and the listing."""
    from builder.runner import Runner  # noqa: PLC0415
    from builder.stage import Context  # noqa: PLC0415
    from builder.stages.blend import blend  # noqa: PLC0415
    from builder.weight_stages import BlendSource, BlendStage  # noqa: PLC0415
    from builder.weighting import Weighting  # noqa: PLC0415
    from registry.artifact import Artifact  # noqa: PLC0415

    density = Weighting.of(0.5 if method == "ties" else 1.0)
    sources = {
        name: BlendSource(weight=Weighting.of(weight), density=density) for name, weight in (("one", 0.6), ("two", 0.4))
    }
    inputs = [_input("model", name, models / name, _plain(source)) for name, source in sources.items()]
    if method == "ties":
        inputs.append(_input("against", "base", models / "base", {}))
    stage: Any = BlendStage(method="ties" if method == "ties" else "linear", models=sources)
    out.mkdir(parents=True)
    context = Context(
        settings=stage,
        inputs=tuple(inputs),
        work=out.parent,
        out=out,
        root=out.parent,
        runner=Runner(),
        say=lambda _: None,
    )
    outcome = blend(context)
    Artifact.from_folder(out, outcome.type, outcome.written).write(out)


def _plain(source: object) -> dict[str, Any]:
    from builder.edges import plain  # noqa: PLC0415

    found = plain(source)
    return found if isinstance(found, dict) else {}


def _input(role: str, name: str, path: Path, settings: dict[str, Any]) -> Any:  # noqa: ANN401 - builder.stage.Input, loaded late
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
        settings=settings,
        source=f"bench:{name}",
    )


def _measured(command: list[str]) -> Run:
    """Run a command under a small parent of its own, so that its peak memory is known apart from all others."""
    parent = (
        "import json, resource, subprocess, sys, time\n"
        "started = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "wall = time.perf_counter() - started\n"
        "print(json.dumps([wall, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))\n"
    )
    done = subprocess.run([sys.executable, "-c", parent, *command], check=True, capture_output=True, text=True)
    wall_s, peak_mib = json.loads(done.stdout)
    return Run(wall_s=wall_s, peak_mib=peak_mib)


def _ours(method: str, models: Path, out: Path) -> Run:
    shutil.rmtree(out, ignore_errors=True)
    return _measured([sys.executable, "-m", "bench.blend", "--blend", method, str(models), str(out)])


def _peers(python: Path, method: str, models: Path, out: Path) -> Run:
    shutil.rmtree(out, ignore_errors=True)
    recipe = models / f"{method}.yaml"
    recipe.write_text(_RECIPES[method].format(**{name: models / name for name in ("base", "one", "two")}))
    return _measured([str(python.parent / "mergekit-yaml"), str(recipe), str(out), "--out-shard-size", "400M"])


def _make_peer() -> Path:
    """An environment with mergekit, made once."""
    python = (_PEER / "bin" / "python").absolute()
    if not python.exists():
        print(f"making {_PEER} with {', '.join(_PACKAGES)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(_PEER)], check=True)
        for package in _PACKAGES:  # torch first, so that a CPU build on this machine is taken
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", package], check=True)
    return python


def _models(folder: Path, size_mb: int) -> Path:
    models = folder / f"models-{size_mb}"
    layers = layers_for(SMALL, size_mb * 10**6)
    sizes = [
        make_model(models / name, SMALL, layers=layers, seed=seed, scale=0.02 + 0.001 * seed)
        for seed, name in enumerate(("base", "one", "two"))
    ]
    print(f"three models of {max(sizes)} bytes in bfloat16", flush=True)
    return models


def compare(folder: Path, size_mb: int, large_mb: int, peer: Path) -> list[dict[str, Any]]:
    """Both methods at both sizes, mergekit at the smaller one; a table, and the figures."""
    imported = _measured([sys.executable, "-c", "import torch"])
    print(f"import torch: {imported.wall_s:.2f} s, {imported.peak_mib:.0f} MiB")
    rows: list[tuple[str, Run]] = []
    figures: list[dict[str, Any]] = []
    for size in (size_mb, large_mb):
        models = _models(folder, size)
        for method, bound in _BOUNDS.items():
            ours = min((_ours(method, models, folder / "ours") for _ in range(2)), key=lambda run: run.wall_s)
            rows.append((f"{method}, {size} MB, ours", ours))
            above = ours.peak_mib - imported.peak_mib
            figures.append(_figure(f"blend/{method}/memory at {size} MB", above, _MEMORY_BOUND_MIB, 1.0, "MiB"))
            if size == size_mb:
                theirs = _peers(peer, method, models, folder / "peer")
                rows.append((f"{method}, {size} MB, mergekit", theirs))
                figures.append(_figure(f"blend/{method}/mergekit", ours.wall_s, theirs.wall_s, bound, "s"))
        shutil.rmtree(models)
    print(f"{'whole processes':32}{'wall s':>9}{'peak MiB':>10}")
    for name, run in rows:
        print(f"{name:32}{run.wall_s:9.2f}{run.peak_mib:10.0f}")
    return figures


def _figure(bench: str, ours: float, peer: float, bound: float, unit: str) -> dict[str, Any]:
    return {
        "bench": bench,
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "unit": unit,
        "ratio": round(ours / peer, 4),
        "bound": bound,
        "holds": ours <= bound * peer,
    }


def main() -> None:
    """Parse, run, end with the JSON line."""
    parser = argparse.ArgumentParser(description="Blends: ours and mergekit.")
    parser.add_argument("--size-mb", type=int, default=1200, help="size of each model (default 1200)")
    parser.add_argument("--large-mb", type=int, default=4000, help="size at which memory is measured again")
    parser.add_argument("--peer", type=Path, default=None, help="python of an environment that has mergekit")
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: a temporary folder)")
    parser.add_argument("--blend", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.blend:
        method, models, out = options.blend
        blend_here(method, Path(models), Path(out))
        return
    peer = options.peer or _make_peer()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(compare(Path(folder), options.size_mb, options.large_mb, peer)))


if __name__ == "__main__":
    main()
