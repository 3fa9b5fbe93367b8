"""Memory of trainings as the plan estimates it, beside what was allocated at most: full, LoRA and QLoRA, two lengths.

The model is that of `bench.training`, a Llama of 1.1 B random weights. Each setting is its stage function for three
steps, so that the optimiser's states are there in the second, with rows of many lengths of which the longest is as long
as the settings allow. The estimate is the plan's, from `config.json` and the stage's table alone.

    python -m bench.memory [--only sft-lora-512,dpo-full-2048] [--compile never] [--small]

`--small` runs all of it on a network of two layers, on the CPU if there is no GPU: it shows that the script runs.
Settings in few bits are left out, by name, where bitsandbytes is not installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.training import prepare
from builder.kinds import KINDS
from builder.manifest import DpoStage, SftStage
from builder.plan.memory import read_network
from builder.plan.training_load import load_of, told_by
from builder.plan.training_memory import training_memory
from builder.runner import Runner
from builder.shapes import Reading
from builder.stage import Context, Input
from builder.tables import read
from registry.artifact import Artifact
from registry.digest import digest_file

if TYPE_CHECKING:
    from registry.canonical import JSON

BOUND: Final = 0.15
"""The estimate is within this share of what was measured."""

_KINDS: Final = ("sft", "dpo")
_WAYS: Final = {"full": None, "lora": "stored", "qlora": "nf4"}
_LENGTHS: Final = (512, 2048)
_ROWS: Final = {"sft": 8, "dpo": 4}  # a row of preferences is two sequences
_STEPS: Final = 3
_GIB: Final = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One training.

    Attributes:
        kind: Its kind.
        way: ``full``, ``lora`` or ``qlora``.
        length: Tokens of the longest sequence.
        rows: Rows at once.
    """

    kind: str
    way: str
    length: int
    rows: int

    @property
    def name(self) -> str:
        """Such as ``dpo-lora-512``."""
        return f"{self.kind}-{self.way}-{self.length}"

    def stage(self) -> Any:  # noqa: ANN401 - one of two tables
        """The stage's table."""
        base = _WAYS[self.way]
        adapter: dict[str, JSON] = {} if base is None else {"adapter": {"type": "lora", "rank": 16, "base": base}}
        train: JSON = {
            "steps": _STEPS,
            "batch": self.rows,
            "max_length": self.length,
            "precision": "mixed-bfloat16",
            **({"loss_on": "all"} if self.kind == "sft" else {}),
        }
        reading = Reading(file="bench")
        table = SftStage if self.kind == "sft" else DpoStage
        document: JSON = {"kind": self.kind, "from": "base", "data": "rows", **adapter, "train": train}
        settings = read(table, document, reading)
        if settings is None or reading.faults:
            raise SystemExit(f"settings: {reading.faults}")
        return settings


def settings(*, small: bool) -> list[Setting]:
    """Every setting, the smallest first."""
    scale = 16 if small else 1
    return [
        Setting(kind=kind, way=way, length=length // scale, rows=_ROWS[kind])
        for length in _LENGTHS
        for way in ("qlora", "lora", "full")
        for kind in _KINDS
    ]


def estimate_bytes(setting: Setting, model: Path) -> float:
    """What the plan says, before anything is loaded."""
    weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    network = read_network(json.loads((model / "config.json").read_bytes()), weights)
    if network is None:
        raise SystemExit("config.json does not say enough")
    told = told_by(setting.stage())
    load = load_of(network, told, rows=setting.rows, length=setting.length, share=setting.rows)
    memory = training_memory(network, load)
    parts = ("weights", "moments", "gradients", "casts", "activations", "passing")
    said = ", ".join(f"{part} {getattr(memory, part) / _GIB:.2f}" for part in parts)
    print(f"  {setting.name}: {said} GiB", file=sys.stderr, flush=True)
    return memory.peak_bytes


def measure_bytes(setting: Setting, folder: Path, source: Input, compiled: str) -> float:
    """What was allocated at most, by the stage's own function; 0 without a GPU."""
    place = folder / setting.name
    (place / "work").mkdir(parents=True)
    (place / "out").mkdir()
    context: Context[Any] = Context(
        settings=setting.stage(),
        inputs=(source, _rows(setting, place)),
        work=place / "work",
        out=place / "out",
        root=folder,
        runner=Runner(micro_batch=setting.rows, checkpoint_steps=10**6, compile=compiled),  # type: ignore[arg-type]
        say=lambda line: print(f"  {setting.name}: {line}", file=sys.stderr, flush=True),
    )
    _forget()
    outcome = KINDS[setting.kind].load()(context)
    shutil.rmtree(place)
    return outcome.device_memory_mib * (1 << 20)


def _rows(setting: Setting, place: Path) -> Input:
    """Rows of 60 to 100 % of the length, one of them longer than that: it is cut to it."""
    draw = random.Random(setting.length)  # noqa: S311 - rows, nothing secret

    def words(share: float) -> str:
        return " ".join(f"w{draw.randrange(3, 200)}" for _ in range(max(1, round(setting.length * share))))

    def row(share: float) -> dict[str, str]:
        if setting.kind == "sft":
            return {"text": words(share)}
        prompt = words(0.2)
        return {"prompt": prompt, "chosen": f" {words(share - 0.2)}", "rejected": f" {words(share - 0.25)}"}

    form = "text" if setting.kind == "sft" else "preference"
    path = place / f"{form}.jsonl"
    table = [row(1.1 if number % setting.rows == 0 else draw.uniform(0.6, 1.0)) for number in range(4 * setting.rows)]
    path.write_text("".join(json.dumps(one) + "\n" for one in table))
    digest, source = digest_file(path), f"data:{path.name}"
    return Input(
        role="data", name="rows", path=path, digest=digest, artifact=None, format=form, settings={}, source=source
    )


def _forget() -> None:
    """Give back what an earlier setting had on the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _base(model: Path) -> Input:
    artifact = Artifact.from_folder(model, "model")
    artifact.write(model)
    return Input(
        role="from",
        name="base",
        path=model,
        digest=artifact.digest,
        artifact=artifact,
        format="",
        settings={},
        source="base",
    )


def judged(setting: Setting, estimated: float, measured: float) -> dict[str, Any]:
    """One line of the figures; without a GPU there is nothing to hold the estimate against."""
    ratio = estimated / measured if measured else None
    return {
        "bench": f"memory-{setting.name}",
        "ours": round(estimated / _GIB, 2),
        "peer": round(measured / _GIB, 2) if measured else None,
        "unit": "GiB",
        "ratio": None if ratio is None else round(ratio, 3),
        "bound": BOUND,
        "holds": None if ratio is None else abs(ratio - 1) <= BOUND,
    }


def main() -> None:
    """Measure every setting; the last line is all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of settings, separated by commas")
    parser.add_argument("--compile", default="never", choices=("never", "always", "auto"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder if none")
    given = parser.parse_args()
    wanted = set(filter(None, given.only.split(",")))
    began, lines = time.monotonic(), []
    with tempfile.TemporaryDirectory(dir=given.folder) as text:
        folder = Path(text)
        prepare(folder, small=given.small, rows=1)
        source = _base(folder / "model")
        for setting in settings(small=given.small):
            if wanted and setting.name not in wanted:
                continue
            estimated = estimate_bytes(setting, folder / "model")
            if setting.way == "qlora" and find_spec("bitsandbytes") is None:
                line = {"bench": f"memory-{setting.name}", "skipped": "bitsandbytes is not installed"}
            else:
                line = judged(setting, estimated, measure_bytes(setting, folder, source, given.compile))
            lines.append(line)
            print(json.dumps(line), flush=True)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    print(json.dumps(lines))


if __name__ == "__main__":
    main()
