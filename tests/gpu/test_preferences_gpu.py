"""The kinds that learn from preferences on a GPU: the same run gives the same bytes, and does what the CPU does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration import preference_kinds as kinds
from tests.integration import training

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.gpu(count=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    kinds.write_rows(folder)
    return folder


@pytest.mark.parametrize("precision", ["float32", "mixed-bfloat16"])
@pytest.mark.parametrize("kind", kinds.TABLES)
def test_two_runs_give_the_same_bytes(kind: str, precision: str, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    stage = kinds.stage_of(kind, precision=precision, steps=6)
    for name in ("one", "two"):
        outcome = kinds.run(kinds.context_of(stage, tiny_llama, data, tmp_path / name, device="cuda"))
        assert outcome.device.startswith("NVIDIA")
    assert training.sums(tmp_path / "one" / "out") == training.sums(tmp_path / "two" / "out")


@pytest.mark.parametrize("kind", kinds.TABLES)
def test_the_loss_is_that_of_the_cpu(kind: str, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    stage = kinds.stage_of(kind, learning_rate=1e-3)
    losses = [
        kinds.run(kinds.context_of(stage, tiny_llama, data, tmp_path / device, device=device)).metrics["train_loss"]
        for device in ("cuda", "cpu")  # a stage on the CPU hides the GPU from its process
    ]
    assert losses[0]["value"] == pytest.approx(losses[1]["value"], abs=1e-4)
