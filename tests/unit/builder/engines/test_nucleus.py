"""Where sampling may use a kernel that is not deterministic, and that nothing else may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builder.engines.job import Job
from builder.engines.nucleus import sampling_trainer
from builder.engines.schedule import Split
from builder.environment import Device
from builder.online_settings import GrpoTraining
from registry.errors import MachineError

TRAINING = GrpoTraining(top_p=0.9)
CPU = Job(
    training=TRAINING,
    steps=1,
    split=Split(micro_batch=1, accumulation=1, threads=1),
    checkpoint_steps=1,
    folder=Path(),
    device=Device(kind="cpu", name="cpu", threads=1),
    say=print,
)
GPU = replace(CPU, device=replace(CPU.device, kind="cuda"))


class Trainer:
    """Tells the mode that it samples in."""

    def _generate_single_turn(self, _prompts: object) -> int:
        torch.tensor([0.5]).cumsum(0)
        return torch.get_deterministic_debug_mode()


@pytest.fixture
def strict() -> Any:  # noqa: ANN401 - a generator
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode(mode)


@pytest.mark.parametrize(("job", "top_p"), [(CPU, 0.9), (GPU, 1.0)])
def test_it_is_the_trainer_itself_where_no_sum_is_taken(job: Job, top_p: float) -> None:
    assert sampling_trainer(Trainer, job, replace(TRAINING, top_p=top_p)) is Trainer


@pytest.mark.usefixtures("strict")
def test_only_the_sampling_is_let_pass() -> None:
    trainer = sampling_trainer(Trainer, GPU, TRAINING)()
    assert isinstance(trainer, Trainer)
    assert trainer._generate_single_turn(None) == 1  # warns, and goes on
    assert torch.get_deterministic_debug_mode() == 2


def test_another_trl_is_told() -> None:
    with pytest.raises(MachineError, match="the installed TRL samples in another way"):
        sampling_trainer(object, GPU, TRAINING)
