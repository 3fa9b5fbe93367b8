"""Cells of the matrix as trainings of two steps on a tiny model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from builder.kinds import KINDS
from builder.train_settings import PretrainTraining
from builder.train_stages import PretrainStage
from tests.integration import online, preference_kinds, training

if TYPE_CHECKING:
    from pathlib import Path

    from builder.adapter_settings import AdapterSettings
    from builder.stage import Outcome

__all__ = ["DATA", "run", "stage_of", "write_rows"]

_SAMPLED = ("grpo", "rloo", "distill")
DATA = (
    {"pretrain": "text", "sft": "messages", "dpo": "preference"}
    | dict.fromkeys(_SAMPLED, "prompts")
    | {kind: rows for kind, (_, _, rows) in preference_kinds.TABLES.items()}
)
"""Kind -> the rows that it learns from here."""

_TWO = {"steps": 2, "learning_rate": 0.02}


def write_rows(folder: Path) -> None:
    """Rows for every kind."""
    preference_kinds.write_rows(folder)
    online.write_prompts(folder)


def stage_of(kind: str, adapter: AdapterSettings | None) -> Any:  # noqa: ANN401 - any of the tables
    """A stage of two steps; without an adapter it trains the attention."""
    targets = None if adapter is not None else "attention"
    if kind in preference_kinds.TABLES:
        return preference_kinds.stage_of(kind, adapter, targets, **_TWO)  # type: ignore[arg-type]
    if kind == "pretrain":
        training_settings = PretrainTraining(steps=2, batch=4, max_length=32, learning_rate=0.02)
        chosen = training.selector(targets)
        return PretrainStage(from_="from", data={"data": 1.0}, adapter=adapter, targets=chosen, train=training_settings)
    makers: dict[str, Any] = {
        "sft": training.sft_stage,
        "dpo": training.dpo_stage,
        "grpo": online.grpo_stage,
        "rloo": online.rloo_stage,
        "distill": online.distill_stage,
    }
    return makers[kind](adapter, targets, **_TWO)


def run(kind: str, adapter: AdapterSettings | None, base: Path, data: Path, folder: Path) -> Outcome:
    """Train it."""
    inputs = [training.model_input("from", base), training.data_input(data / f"{DATA[kind]}.jsonl")]
    if kind in {"grpo", "rloo"}:
        inputs.append(online.reward_input(data))
    if kind == "distill":
        inputs.append(training.model_input("teacher", base))
    context = training.context(stage_of(kind, adapter), inputs, folder)
    module, _, name = KINDS[kind].function.partition(":")
    outcome: Outcome = getattr(import_module(module), name)(context)
    return outcome
