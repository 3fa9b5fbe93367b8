"""Trainings on two GPUs: they learn what one learns, whole or in parts, and give the same bytes twice."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file

from registry.errors import MachineError
from tests.integration import training
from tests.integration.ranked import at, ranked, train

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.stage import Outcome
    from tests.conftest import MakeModel

pytestmark = pytest.mark.gpu(count=2)

KINDS = {
    "sft lora": ("sft", training.sft_stage, training.lora(dropout=0.0)),
    "sft full": ("sft", training.sft_stage, None),
    "dpo lora": ("dpo", training.dpo_stage, training.lora(dropout=0.0)),
    "dpo full": ("dpo", training.dpo_stage, None),
}


@pytest.fixture(autouse=True)
def _own_variables() -> Iterator[None]:
    """One process alone hides all GPUs but one from itself; here it goes on to start two."""
    kept = dict(os.environ)
    yield
    for name in os.environ.keys() - kept.keys():
        del os.environ[name]
    os.environ.update(kept)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    training.write_rows(folder)
    return folder


def run(name: str, base: Path, data: Path, folder: Path, processes: int, **more: Any) -> Outcome:  # noqa: ANN401
    kind, stage, adapter = KINDS[name]
    precision = more.pop("precision", "float32")
    settings = stage(adapter, steps=6, batch=8, learning_rate=1e-3, precision=precision)
    say = more.pop("say", None)
    return train(kind, ranked(kind, base, data, folder, processes, stage=settings, device="cuda", **more), say)


def furthest(one: Path, other: Path) -> float:
    left, right = (
        {n: t for p in sorted(f.glob("*.safetensors")) for n, t in load_file(p).items()} for f in (one, other)
    )
    assert left.keys() == right.keys()
    return max(float((left[name].float() - right[name].float()).abs().max()) for name in left)


@pytest.mark.parametrize("name", KINDS)
def test_two_gpus_learn_what_one_learns(name: str, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    two = run(name, tiny_llama, data, tmp_path / "2", 2)
    one = run(name, tiny_llama, data, tmp_path / "1", 1)
    assert two.environment["processes"] == "2"
    assert two.device.startswith("NVIDIA")
    loss = one.metrics["train_loss"]["value"]
    assert two.metrics["train_loss"]["value"] == pytest.approx(loss, abs=1e-4)
    assert furthest(tmp_path / "1" / "out", tmp_path / "2" / "out") < 1e-3


@pytest.mark.parametrize("precision", ["float32", "mixed-bfloat16"])
@pytest.mark.parametrize("name", ["sft lora", "sft full"])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_in_parts_learn_what_whole_ones_learn(
    name: str, precision: str, *, tied: bool, make_model: MakeModel, data: Path, tmp_path: Path
) -> None:
    base = make_model("llama", dtype="bfloat16" if precision == "mixed-bfloat16" else "float32", tied=tied)
    parts = run(name, base, data, tmp_path / "parts", 2, sharding="fsdp2", precision=precision)
    assert parts.environment["sharding"] == "fsdp2"
    assert (tmp_path / "parts" / "work" / "checkpoint-2" / "pytorch_model_fsdp_0").is_dir()
    whole = run(name, base, data, tmp_path / "whole", 2, precision=precision)
    near = 1e-4 if precision == "float32" else 0.02
    loss = whole.metrics["train_loss"]["value"]
    assert parts.metrics["train_loss"]["value"] == pytest.approx(loss, abs=near)
    assert sorted(training.sums(tmp_path / "parts" / "out")) == sorted(training.sums(tmp_path / "whole" / "out"))


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
@pytest.mark.parametrize("name", ["sft lora", "sft full"])
def test_two_runs_give_the_same_bytes(name: str, sharding: str, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    for place in ("one", "two"):
        run(name, tiny_llama, data, tmp_path / place, 2, sharding=sharding, precision="mixed-bfloat16")
    assert training.sums(tmp_path / "one" / "out") == training.sums(tmp_path / "two" / "out")


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_a_training_that_was_ended_goes_on_to_the_same_bytes(
    sharding: str, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    more = {"sharding": sharding, "precision": "mixed-bfloat16"}
    run("sft full", tiny_llama, data, tmp_path / "whole", 2, **more)
    say = at(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(MachineError):
        run("sft full", tiny_llama, data, tmp_path / "ended", 2, say=say, **more)
    run("sft full", tiny_llama, data, tmp_path / "ended", 2, **more)
    assert training.sums(tmp_path / "ended" / "out") == training.sums(tmp_path / "whole" / "out")
