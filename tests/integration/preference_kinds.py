"""Stages of the kinds that learn from preferences, for the tests and a child process that is killed in each of them."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.kinds import KINDS
from builder.train_settings import CpoTraining, KtoTraining, OrpoTraining, RewardTraining
from builder.train_stages import CpoStage, KtoStage, OrpoStage, RewardStage
from builder.weight_stages import GraftStage, HeadSettings
from tests.integration import training

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.adapter_settings import LoraSettings
    from builder.stage import Context, Outcome

TABLES: Mapping[str, tuple[Any, Any, str]] = {
    "kto": (KtoStage, KtoTraining, "unpaired"),
    "orpo": (OrpoStage, OrpoTraining, "preference"),
    "cpo": (CpoStage, CpoTraining, "preference"),
    "reward": (RewardStage, RewardTraining, "preference"),
}
"""Table of a kind, table of its training, and the data that it learns from here."""


def write_rows(folder: Path) -> None:
    """The rows of the other trainings, and each preference as two answers with a label."""
    training.write_rows(folder)
    pairs = [json.loads(line) for line in (folder / "preference.jsonl").read_text().splitlines()]
    answers = [
        {"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"}
        for pair in pairs
        for name in ("chosen", "rejected")
    ]
    (folder / "unpaired.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))


def stage_of(kind: str, adapter: LoraSettings | None = None, targets: object = None, **train: Any) -> Any:  # noqa: ANN401
    """A stage of a few steps."""
    table, settings, _ = TABLES[kind]
    own = settings(**({"steps": 4, "batch": 4, "learning_rate": 1e-2, "max_length": 64} | train))
    return table(from_="from", data="data", adapter=adapter, targets=training.selector(targets), train=own)


def with_head(base: Path, folder: Path) -> Path:
    """The model with a head that gives one number, in place of its own."""
    stage = GraftStage(from_="from", head=HeadSettings(type="reward", seed=7))
    run(training.context(stage, [training.model_input("from", base)], folder))
    return folder / "out"


def context_of(
    stage: Any,  # noqa: ANN401 - any of the tables
    source: Path,
    data: Path,
    folder: Path,
    *,
    under: Path | None = None,
    rows: str = "",
    **runner: int | str,
) -> Context[Any]:
    """A stage with its inputs, in a folder of its own."""
    name = rows or TABLES[stage.kind][2]
    inputs = [training.model_input("from", source), training.data_input(data / f"{name}.jsonl")]
    inputs += [] if under is None else [training.model_input("base", under)]
    return training.context(stage, inputs, folder, **runner)


def run(context: Context[Any]) -> Outcome:
    """The stage's own function."""
    module, _, name = KINDS[context.settings.kind].function.partition(":")
    outcome: Outcome = getattr(import_module(module), name)(context)
    return outcome


def resumable(kind: str, base: Path, data: Path, folder: Path) -> Context[Any]:
    """A training that is killed and goes on; a score's is one of a whole model, whose head is new."""
    stage = stage_of(kind, None if kind == "reward" else training.lora(), **training.RESUMED)
    return context_of(stage, base, data, folder, checkpoint_steps=2, micro_batch=2, threads=1)


def _killed(kind: str, base: Path, data: Path, folder: Path) -> None:
    """Die in the middle of a training."""

    def die(line: str) -> None:
        if line.startswith("step 5 "):
            os.kill(os.getpid(), signal.SIGKILL)

    run(replace(resumable(kind, base, data, folder), say=die))


def main(base: Path, data: Path, folder: Path, kinds: list[str]) -> None:
    """Child process: import once, then die in a training of each kind, in a process of its own."""
    for kind in kinds:
        for module in (f"builder.engines.{kind}", "builder.engines.quiet", "builder.stages.models"):
            import_module(module)
    for kind in kinds:
        child = os.fork()
        if not child:
            _killed(kind, base, data, folder / kind)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            sys.exit(f"{kind} ended with {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
