"""A training that is asked to end saves first, one that finds no memory goes on with less: each to the same bytes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch

from builder.call import call
from builder.engines import checkpoints, disk
from builder.engines.schedule import kept_split
from builder.stages import models
from builder.stages.dpo import dpo
from builder.stages.sft import sft
from registry.errors import MachineError
from tests.integration import surviving, training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.stage import Context, Outcome

ROOT = Path(__file__).parents[2]
FUNCTIONS: dict[str, Callable[[Context[Any]], Outcome]] = {"sft": sft, "dpo": dpo}
RESUMED = re.compile(r"resumed from the checkpoint of step (\d+)")


@pytest.fixture(scope="module", autouse=True)
def _own_variables() -> Iterator[None]:
    """A stage sets variables of its process; here that process goes on to other tests."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    training.write_rows(folder)
    return folder


@pytest.fixture(scope="module")
def ended(tiny_llama: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A process that is sent SIGTERM in its first training, and SIGINT in its second."""
    folder = tmp_path_factory.mktemp("ended")
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.integration.surviving", str(tiny_llama), str(data), str(folder), "sft", "dpo"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error::UserWarning"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        signals = iter((signal.SIGTERM, signal.SIGINT))
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith(surviving.PAUSED):
                child.send_signal(next(signals))
    assert child.returncode == 0, lines
    return folder, lines


def without_end(kind: str, base: Path, data: Path, folder: Path) -> dict[str, str]:
    context = training.resumable(kind, base, data, folder)
    FUNCTIONS[kind](context)
    return training.sums(context.out)


@pytest.mark.parametrize(("kind", "number"), [("sft", signal.SIGTERM), ("dpo", signal.SIGINT)])
def test_a_signal_saves_first_and_the_next_run_gives_the_same_bytes(
    kind: str,
    number: signal.Signals,
    *,
    ended: tuple[Path, list[str]],
    tiny_llama: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    folder, lines = ended
    assert f"8 ended by {number.name} after step 3 of 8; the last good checkpoint is of step 3" in lines
    assert "  mend: run it again: it goes on from its last checkpoint, and ends with the same bytes" in lines
    shutil.copytree(folder / kind, tmp_path / "again")
    assert checkpoints.latest(tmp_path / "again" / "work") == tmp_path / "again" / "work" / "checkpoint-3"
    context = training.resumable(kind, tiny_llama, data, tmp_path / "again")
    outcome = FUNCTIONS[kind](context)
    assert "resumed from the checkpoint of step 3" in outcome.notes
    assert training.sums(context.out) == without_end(kind, tiny_llama, data, tmp_path / "whole")


def test_a_checkpoint_of_the_last_step_is_resumed_too(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    context = training.resumable("sft", tiny_llama, data, tmp_path)

    def ask(line: str) -> None:
        if line.startswith("step 8 of 8"):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(MachineError, match="ended by SIGTERM after step 8 of 8"):
        sft(replace(context, say=ask))
    assert signal.getsignal(signal.SIGTERM) is before
    again = training.resumable("sft", tiny_llama, data, tmp_path)
    assert "resumed from the checkpoint of step 8" in sft(again).notes
    assert training.sums(again.out) == without_end("sft", tiny_llama, data, tmp_path / "whole")


def test_two_checkpoints_are_never_more(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    context = training.resumable("sft", tiny_llama, data, tmp_path)
    counts: list[int] = []
    real = checkpoints.seal

    def count(checkpoint: Path) -> None:
        counts.append(len(list(checkpoint.parent.glob("checkpoint-*"))))
        real(checkpoint)

    with mock.patch.object(checkpoints, "seal", count):
        sft(context)
    assert counts == [1, 2, 2, 2]


def test_the_lines_say_loss_speed_and_time_left(ended: tuple[Path, list[str]]) -> None:
    _, lines = ended
    assert any(re.fullmatch(r"step 3 of 8, loss \d+\.\d{4}, [\d,]+ tokens/s, \d+ s left", line) for line in lines)


# Memory


def starved(most: int, *, after: int = 0) -> Any:  # noqa: ANN401 - a patch
    """Models that find no memory for more rows than ``most`` at once, once they have read ``after`` micro-batches."""
    real = models.open_model

    def opened(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        model, seen = real(*arguments, **named), SimpleNamespace(count=0)

        def refuse(module: object, given: tuple[Any, ...], said: dict[str, Any]) -> None:
            del module
            ids = said["input_ids"] if "input_ids" in said else given[0]
            seen.count += 1
            if seen.count > after and len(ids) > most:
                message = "CUDA out of memory. Tried to allocate 2.00 GiB."
                raise torch.OutOfMemoryError(message)

        model.register_forward_pre_hook(refuse, with_kwargs=True)
        return model

    return mock.patch.object(models, "open_model", opened)


def stage_context(base: Path, data: Path, folder: Path, **runner: int) -> Context[Any]:
    return training.context(
        training.sft_stage(training.lora(), **training.RESUMED),
        [training.model_input("from", base), training.data_input(data / "messages.jsonl")],
        folder,
        **runner,
    )


def test_micro_batches_are_halved_until_they_fit(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    context = replace(stage_context(tiny_llama, data, tmp_path / "starved"), say=lines.append)
    with starved(1):
        outcome = call("sft", context, where="support:tone")
    assert outcome.micro_batch == 1
    assert "micro-batch 1: the device's memory was too small for 4, then 2" in outcome.notes
    assert "the device's memory is too small for 4 rows at once: again with 2, 2 times a step" in lines
    assert "the device's memory is too small for 2 rows at once: again with 1, 4 times a step" in lines
    alike = stage_context(tiny_llama, data, tmp_path / "alike", micro_batch=1)
    sft(alike)
    assert training.sums(context.out) == training.sums(alike.out)


def test_a_halved_training_goes_on_from_its_checkpoint_and_keeps_its_split(
    tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    """Five steps of one micro-batch each are over when the memory goes; those up to the checkpoint count."""
    context = stage_context(tiny_llama, data, tmp_path, checkpoint_steps=2)
    with starved(2, after=5):
        outcome = call("sft", context, where="support:tone")
    assert "resumed from the checkpoint of step 4" in outcome.notes
    assert outcome.metrics["steps"]["value"] == 8.0
    split = kept_split(context.work)
    assert split is not None
    assert (split.micro_batch, split.accumulation, split.halved) == (2, 2, (4,))
    for checkpoint in context.work.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    assert call("sft", stage_context(tiny_llama, data, tmp_path), where="support:tone").micro_batch == 2


def test_the_reference_pass_of_dpo_is_halved_too(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    inputs = [training.model_input("from", tiny_llama), training.data_input(data / "preference.jsonl")]
    context = training.context(training.dpo_stage(training.lora(), steps=6), inputs, tmp_path)
    with starved(16):  # a row is two sequences, and the pass takes four times the rows of a micro-batch
        assert call("dpo", context, where="support:pref").micro_batch == 2


def test_a_single_row_that_does_not_fit_is_said_with_what_would(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    context = stage_context(tiny_llama, data, tmp_path, micro_batch=2)
    with starved(0), pytest.raises(MachineError) as caught:
        call("sft", context, where="support:tone")
    assert caught.value.what.startswith("the device's memory is too small for a single row at a time")
    assert "train.max_length" in caught.value.mend


# Disk


def test_checkpoints_are_counted_before_the_first_step(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    context = training.resumable("sft", tiny_llama, data, tmp_path)
    with (
        mock.patch("builder.engines.disk.shutil.disk_usage", return_value=SimpleNamespace(free=100_000)),
        pytest.raises(MachineError) as caught,
    ):
        sft(context)
    assert re.fullmatch(
        r"97\.7 KiB are free, the training may need [\d.]+ KiB: 2 checkpoints of [\d.]+ KiB, "
        r"and the artifact of [\d.]+ KiB",
        caught.value.what,
    )
    assert not list(context.work.glob("checkpoint-*"))


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_count_is_that_of_what_is_written(whole: bool, tiny_llama: Path, data: Path, tmp_path: Path) -> None:  # noqa: FBT001
    context = stage_context(tiny_llama, data, tmp_path, checkpoint_steps=4)
    if whole:
        context = replace(context, settings=training.sft_stage(None, None, **training.RESUMED))
    counted: list[int] = []
    real = disk.checkpoint_bytes

    def count(model: Any, *, steps: int) -> int:  # noqa: ANN401
        counted.append(real(model, steps=steps))
        return counted[-1]

    with mock.patch.object(disk, "checkpoint_bytes", count):
        sft(context)
    written = sum(path.stat().st_size for path in (context.work / "checkpoint-8").rglob("*") if path.is_file())
    assert 0.7 * counted[0] < written < 1.1 * counted[0]


# Broken rows


def test_a_broken_batch_is_named_by_its_rows(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    """At that learning rate the weights are no numbers after the first step, so the second batch is the one."""
    context = replace(
        stage_context(tiny_llama, data, tmp_path, checkpoint_steps=1),
        settings=training.sft_stage(training.lora(), steps=8, batch=4, seed=3, learning_rate=10.0),
    )
    real, calls = torch.optim.AdamW.step, SimpleNamespace(count=0)

    def spoil(optimizer: Any, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        given = real(optimizer, *arguments, **named)
        calls.count += 1
        if calls.count == 2:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].fill_(float("nan"))
        return given

    with mock.patch.object(torch.optim.AdamW, "step", spoil), pytest.raises(MachineError) as caught:
        sft(context)
    found = re.fullmatch(
        r"(?:loss|grad_norm) is nan at step 3, on rows ([\d, -]+) of messages\.jsonl; "
        r"the last good checkpoint is of step 2",
        caught.value.what,
    )
    assert found is not None, caught.value.what
    assert caught.value.where == "data:messages.jsonl"
    assert (context.work / "checkpoint-2").is_dir()
