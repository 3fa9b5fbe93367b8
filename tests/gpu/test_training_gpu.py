"""Training on a GPU: the same run gives the same bytes, and does what the CPU does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.environment import COMPILED_LAYERS
from builder.stages.dpo import dpo
from builder.stages.sft import sft
from tests.integration import training

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.adapter_settings import LoraSettings
    from builder.manifest import DpoStage, SftStage
    from builder.stage import Outcome

pytestmark = pytest.mark.gpu(count=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    training.write_rows(folder)
    return folder


def run(
    folder: Path, base: Path, data: Path, stage: SftStage | DpoStage, device: str, *, compiled: str = "never"
) -> Outcome:
    rows = data / ("messages.jsonl" if stage.kind == "sft" else "preference.jsonl")
    inputs = [training.model_input("from", base), training.data_input(rows)]
    context = training.context(stage, inputs, folder, device=device, compile=compiled)
    return sft(context) if stage.kind == "sft" else dpo(context)


@pytest.mark.parametrize("precision", ["float32", "mixed-bfloat16"])
@pytest.mark.parametrize("stage", [training.sft_stage, training.dpo_stage])
@pytest.mark.parametrize("adapter", [training.lora(), None])
def test_two_runs_give_the_same_bytes(
    stage: Callable[..., SftStage],
    adapter: LoraSettings | None,
    precision: str,
    *,
    tiny_llama: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    settings = stage(adapter, precision=precision, steps=6)
    outcomes = [run(tmp_path / name, tiny_llama, data, settings, "cuda") for name in ("one", "two")]
    assert training.sums(tmp_path / "one" / "out") == training.sums(tmp_path / "two" / "out")
    assert outcomes[0].metrics == outcomes[1].metrics
    assert outcomes[0].device.startswith("NVIDIA")


@pytest.mark.parametrize("stage", [training.sft_stage, training.dpo_stage])
def test_the_loss_is_that_of_the_cpu(
    stage: Callable[..., SftStage], tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    settings = stage(training.lora(dropout=0.0), learning_rate=1e-3)
    losses = [
        run(tmp_path / device, tiny_llama, data, settings, device).metrics["train_loss"]["value"]
        for device in ("cuda", "cpu")  # a stage on the CPU hides the GPU from its process
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("stage", [training.sft_stage, training.dpo_stage])
@pytest.mark.parametrize("adapter", [training.lora(dropout=0.0), None])
def test_compiled_layers_give_the_same_bytes_twice_and_the_same_loss(
    stage: Callable[..., SftStage], adapter: LoraSettings | None, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    settings = stage(adapter, precision="mixed-bfloat16", steps=6, learning_rate=1e-3)
    outcomes = {
        name: run(tmp_path / name, tiny_llama, data, settings, "cuda", compiled=compiled)
        for name, compiled in (("one", "always"), ("two", "always"), ("plain", "never"))
    }
    assert training.sums(tmp_path / "one" / "out") == training.sums(tmp_path / "two" / "out")
    assert COMPILED_LAYERS in outcomes["one"].depends_on
    losses = [outcomes[name].metrics["train_loss"]["value"] for name in ("one", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_packed_rows_give_the_same_bytes_twice(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    settings = training.sft_stage(training.lora(), precision="mixed-bfloat16", steps=6, packing=True)
    for name in ("one", "two"):
        run(tmp_path / name, tiny_llama, data, settings, "cuda")
    assert training.sums(tmp_path / "one" / "out") == training.sums(tmp_path / "two" / "out")
