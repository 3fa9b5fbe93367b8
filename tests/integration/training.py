"""Stages of training, set up without a repository: what the tests and their child processes share."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from builder.adapter_settings import AdapterSettings, LoraSettings
from builder.manifest import DpoStage, PretrainStage, SftStage
from builder.runner import Runner
from builder.settings import NetworkSettings, TokenizerSettings
from builder.stage import Context, Input
from builder.train_settings import DpoTraining, PretrainTraining, SftTraining
from builder.weighting import Weighting
from registry.artifact import Artifact
from registry.digest import digest_file
from registry.selector import Selector

COLOURS = ("red", "blue", "green", "grey")
TOWNS = ("Arden", "the mill", "the river", "the sea", "the sky", "the wheel")


def write_rows(folder: Path) -> None:
    """Conversations, preferences and texts of a few words each."""
    pairs = [(town, COLOURS[number % len(COLOURS)]) for number, town in enumerate(TOWNS * 4)]
    asked = [{"role": "user", "content": f"the colour of {town} ?"} for town, _ in pairs]
    right = [{"role": "assistant", "content": f"{town} is {colour}"} for town, colour in pairs]
    wrong = {"role": "assistant", "content": "yes of course"}
    rows: dict[str, list[dict[str, Any]]] = {
        "messages": [{"messages": [one, other]} for one, other in zip(asked, right, strict=True)],
        "preference": [
            {"prompt": [one], "chosen": [other], "rejected": [wrong]} for one, other in zip(asked, right, strict=True)
        ],
        "text": [{"text": f"the baker of {town} sells {colour} bread and turns the wheel"} for town, colour in pairs],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def model_input(role: str, path: Path) -> Input:
    """A folder as an input of a stage."""
    kind = "adapter" if (path / "adapter_config.json").exists() else "model"
    artifact = Artifact.from_folder(path, kind)
    return Input(
        role=role, name=role, path=path, digest=artifact.digest, artifact=artifact, format="", settings={}, source=role
    )


def data_input(path: Path) -> Input:
    """A data file as an input of a stage; its format is its name."""
    return Input(
        role="data",
        name=path.stem,
        path=path,
        digest=digest_file(path),
        artifact=None,
        format=path.stem,
        settings={},
        source=f"data:{path.name}",
    )


def context(settings: object, inputs: list[Input], folder: Path, **runner: int | str) -> Context[Any]:
    """A context in a folder of its own; its work folder is found again by the next try."""
    out, work = folder / "out", folder / "work"
    if out.exists():
        for left in out.iterdir():
            left.unlink()
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    lines: list[str] = []
    return Context(
        settings=settings,
        inputs=tuple(inputs),
        work=work,
        out=out,
        root=folder,
        runner=Runner(**runner),
        say=lines.append,
    )


def sft_stage(adapter: AdapterSettings | None = None, targets: object = None, **train: object) -> SftStage:
    """A stage of a few steps."""
    training = SftTraining(**({"steps": 4, "batch": 4, "learning_rate": 1e-2, "max_length": 64} | train))
    return SftStage(from_="from", data="data", adapter=adapter, targets=selector(targets), train=training)


def dpo_stage(adapter: AdapterSettings | None = None, targets: object = None, **train: object) -> DpoStage:
    """A stage of a few steps."""
    training = DpoTraining(**({"steps": 4, "batch": 4, "learning_rate": 1e-2, "max_length": 64} | train))
    return DpoStage(from_="from", data="data", adapter=adapter, targets=selector(targets), train=training)


def pretrain_stage(architecture: str = "llama", **train: object) -> PretrainStage:
    """A stage of a few steps."""
    return PretrainStage(
        data="data",
        network=NetworkSettings(architecture=architecture, layers=2, hidden_size=16, heads=2, context=32),  # type: ignore[arg-type]
        tokenizer=TokenizerSettings(vocabulary=270),
        train=PretrainTraining(**({"steps": 4, "batch": 4, "max_length": 32} | train)),
    )


def selector(value: object) -> Selector | None:
    """A selector as a manifest has it."""
    return None if value is None else Selector.parse(value)


def lora(*targets: str, **settings: object) -> LoraSettings:
    """A small adapter, with dropout so that a resume has random numbers to get right."""
    chosen = {"targets": Selector.parse(list(targets))} if targets else {}
    numbers = {key: Weighting.parse(settings.get(key, value), where=key) for key, value in _LORA.items()}
    return LoraSettings(**({"dropout": 0.1} | chosen | settings | numbers))


_LORA = {"rank": 4, "alpha": 8.0}


def sums(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


RESUMED = {"steps": 8, "batch": 4, "seed": 3}
"""Settings of the trainings that are killed: two checkpoints, then a kill, then more."""


def resumable(kind: str, base: Path, data: Path, folder: Path) -> Context[Any]:
    """A training that two processes, or one that is killed and another, do alike."""
    runner = {"checkpoint_steps": 2, "micro_batch": 2, "threads": 2}
    if kind == "sft":
        return context(
            sft_stage(lora(), **RESUMED),
            [model_input("from", base), data_input(data / "messages.jsonl")],
            folder,
            **runner,
        )
    return context(
        dpo_stage(lora(), **RESUMED),
        [model_input("from", base), data_input(data / "preference.jsonl")],
        folder,
        **runner,
    )


def main(base: Path, data: Path, whole: str, killed: str, folder: Path) -> None:
    """Child process: do one training to its end, then die in the middle of another."""
    from builder.stages.dpo import dpo  # noqa: PLC0415 - the child's own import
    from builder.stages.sft import sft  # noqa: PLC0415

    functions = {"sft": sft, "dpo": dpo}
    functions[whole](resumable(whole, base, data, folder / f"{whole}-whole"))
    doomed = resumable(killed, base, data, folder / f"{killed}-killed")

    def die(line: str) -> None:
        if line.startswith("step 5 "):
            os.kill(os.getpid(), signal.SIGKILL)

    functions[killed](
        Context(
            settings=doomed.settings,
            inputs=doomed.inputs,
            work=doomed.work,
            out=doomed.out,
            root=doomed.root,
            runner=doomed.runner,
            say=die,
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], Path(sys.argv[5]))
