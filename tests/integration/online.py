"""Stages that sample answers, set up without a repository: what the tests and their child processes share."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.manifest import DistillStage, GrpoStage, RlooStage
from builder.online_settings import DistillTraining, GrpoTraining, RlooTraining
from builder.reward_settings import RewardFunction
from builder.stage import Input
from registry.digest import digest_file
from tests.integration import training

if TYPE_CHECKING:
    from builder.stage import Context

CODE = """\
def shorter(completions, limit, **rest):
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [-abs(len(text) - most) for text, most in zip(texts, limit)]


def spells(prompts, completions):
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [float(sum(letter.isascii() and letter.isalpha() for letter in text)) for text in texts]
"""
SMALL = {
    "steps": 4,
    "batch": 4,
    "num_generations": 2,
    "learning_rate": 1e-2,
    "max_length": 64,
    "max_completion_length": 8,
}


def write_prompts(folder: Path) -> None:
    """Prompts as messages and as texts, and a file of reward functions."""
    towns = training.TOWNS
    asked = [[{"role": "user", "content": f"the colour of {town} ?"}] for town in towns]
    rows: dict[str, list[dict[str, Any]]] = {
        "prompts": [{"prompt": one, "limit": number} for number, one in enumerate(asked)],
        "plain": [{"prompt": f"the colour of {town} is", "limit": 4} for town in towns],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "rate.py").write_text(CODE)


def prompts_input(folder: Path, name: str = "prompts") -> Input:
    """A file of prompts as an input."""
    return replace(training.data_input(folder / f"{name}.jsonl"), format="prompts")


def reward_input(folder: Path, function: str = "shorter", *, weight: float = 1.0) -> Input:
    """A reward function as an input; its label is its name."""
    path = folder / "rate.py"
    return Input(
        role="reward",
        name=function,
        path=path,
        digest=digest_file(path),
        artifact=None,
        format="",
        settings={"label": function, "function": function, "weight": weight},
        source="code:rewards/rate.py",
    )


def grpo_stage(adapter: Any = None, targets: object = None, **train: object) -> GrpoStage:  # noqa: ANN401
    """A stage of a few steps."""
    return GrpoStage(
        from_="from",
        data={"data": 1.0},
        rewards={"shorter": RewardFunction(file="rewards/rate.py", function="shorter")},
        adapter=adapter,
        targets=training.selector(targets),
        train=GrpoTraining(**(SMALL | train)),  # type: ignore[arg-type]
    )


def rloo_stage(adapter: Any = None, targets: object = None, **train: object) -> RlooStage:  # noqa: ANN401
    """A stage of a few steps."""
    return RlooStage(
        from_="from",
        data={"data": 1.0},
        rewards={"shorter": RewardFunction(file="rewards/rate.py", function="shorter")},
        adapter=adapter,
        targets=training.selector(targets),
        train=RlooTraining(**(SMALL | train)),  # type: ignore[arg-type]
    )


def distill_stage(adapter: Any = None, targets: object = None, **train: object) -> DistillStage:  # noqa: ANN401
    """A stage of a few steps."""
    small = {key: one for key, one in SMALL.items() if key != "num_generations"}
    return DistillStage(
        from_="from",
        teacher="teacher",
        data={"data": 1.0},
        adapter=adapter,
        targets=training.selector(targets),
        train=DistillTraining(**(small | train)),  # type: ignore[arg-type]
    )


def lora(*targets: str) -> Any:  # noqa: ANN401
    """A small adapter, without dropout."""
    return training.lora(*targets, dropout=0.0)


RATED = {"beta": 0.1, "num_iterations": 2}


def resumable(kind: str, base: Path, data: Path, folder: Path) -> Context[Any]:
    """A training that two processes, or one that is killed and another, do alike.

    Two checkpoints, then a kill, in the middle of a round where answers are learnt from twice, then more.
    """
    long: dict[str, Any] = {"steps": 8, "seed": 3}
    inputs = [training.model_input("from", base), prompts_input(data)]
    stage: GrpoStage | RlooStage | DistillStage
    if kind == "distill":
        stage = distill_stage(lora(), **long)
        inputs.append(training.model_input("teacher", data / "teacher"))
    else:
        stage = grpo_stage(lora(), **long, **RATED) if kind == "grpo" else rloo_stage(lora(), **long, **RATED)
        inputs.append(reward_input(data))
    steps = 2 if kind == "distill" else 1
    return training.context(stage, inputs, folder, checkpoint_steps=steps, micro_batch=2, threads=2)


def functions() -> dict[str, Any]:
    """The stage functions; the training stack is loaded by their first call."""
    from builder.stages.distill import distill  # noqa: PLC0415 - the child's own import
    from builder.stages.grpo import grpo  # noqa: PLC0415
    from builder.stages.rloo import rloo  # noqa: PLC0415

    return {"grpo": grpo, "rloo": rloo, "distill": distill}


def main(base: Path, data: Path, folder: Path) -> None:
    """Child process: of each kind, let a training die in the middle; the training stack is loaded once for all."""
    found = functions()
    for kind, function in found.items():
        child = os.fork()
        if child == 0:
            function(replace(resumable(kind, base, data, folder / kind), say=_die))
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{kind} ended with status {status}")


def _die(line: str) -> None:
    if line.startswith("step 6 "):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
