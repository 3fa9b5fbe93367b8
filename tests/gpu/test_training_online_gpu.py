"""Training on sampled answers on a GPU: the same run gives the same bytes, also where it is resumed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration import online, training

if TYPE_CHECKING:
    from pathlib import Path

    from builder.stage import Context, Outcome
    from tests.conftest import MakeModel

pytestmark = pytest.mark.gpu(count=1)

STAGES: dict[str, Any] = {"grpo": online.grpo_stage, "rloo": online.rloo_stage, "distill": online.distill_stage}


@pytest.fixture(scope="module")
def data(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    online.write_prompts(folder)
    shutil.copytree(make_model("llama", seed=7), folder / "teacher")
    return folder


def context(stage: Any, folder: Path, base: Path, data: Path, **runner: int | str) -> Context[Any]:  # noqa: ANN401
    inputs = [training.model_input("from", base), online.prompts_input(data)]
    judge = training.model_input("teacher", data / "teacher") if stage.kind == "distill" else online.reward_input(data)
    return training.context(stage, [*inputs, judge], folder, **{"device": "cuda", **runner})


def run(given: Context[Any]) -> Outcome:
    outcome: Outcome = online.functions()[given.settings.kind](given)
    return outcome


@pytest.mark.parametrize("precision", ["float32", "mixed-bfloat16"])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("kind", ["grpo", "rloo", "distill"])
def test_two_runs_give_the_same_bytes(
    kind: str, top_p: float, precision: str, *, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    stage = STAGES[kind](online.lora(), top_p=top_p, precision=precision, steps=4)
    outcomes = [run(context(stage, tmp_path / name, tiny_llama, data)) for name in ("one", "two")]
    assert training.sums(tmp_path / "one" / "out") == training.sums(tmp_path / "two" / "out")
    assert outcomes[0].metrics == outcomes[1].metrics
    assert outcomes[0].device.startswith("NVIDIA")


@pytest.mark.parametrize("kind", ["grpo", "rloo", "distill"])
def test_a_resume_samples_the_same_answers(kind: str, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    stage = STAGES[kind](online.lora(), steps=6)
    run(context(stage, tmp_path / "whole", tiny_llama, data))
    again = context(stage, tmp_path / "again", tiny_llama, data, checkpoint_steps=2)
    run(again)
    shutil.rmtree(again.work / "checkpoint-6")
    outcome = run(context(stage, tmp_path / "again", tiny_llama, data, checkpoint_steps=2))
    assert any(note.startswith("resumed from the checkpoint of step") for note in outcome.notes)
    assert training.sums(tmp_path / "again" / "out") == training.sums(tmp_path / "whole" / "out")
