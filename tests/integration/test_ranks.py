"""Trainings of several processes, for real, on the processor: the same batches, the same losses, the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from accelerate.data_loader import BatchSamplerShard
from safetensors.torch import load_file
from torch.utils.data import BatchSampler, SequentialSampler

from builder.engines.checkpoints import any_checkpoint
from builder.kinds import KINDS
from registry.errors import InvalidError, MachineError
from registry.record import Record, artifact_record
from tests.integration import preference_kinds, training
from tests.integration.ranked import STEPS, at, ranked, ranks_of, train

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from builder.stage import Outcome
    from tests.conftest import MakeModel
    from tests.team import Team

ROOT = Path(__file__).parents[2]
SHARDED_ON_CPU = ROOT / "tests" / "sharded_on_cpu"


@pytest.fixture(scope="module", autouse=True)
def _own_variables() -> Iterator[None]:
    """A stage sets variables of its process; here that process goes on to other tests."""
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


def losses(outcome: Outcome) -> float:
    return outcome.metrics["train_loss"]["value"]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def furthest(one: Path, other: Path) -> float:
    """The largest difference of two numbers of two artifacts."""
    left, right = tensors(one), tensors(other)
    assert left.keys() == right.keys()
    return max(float((left[name].float() - right[name].float()).abs().max()) for name in left)


def with_path(folder: Path) -> str:
    """What new processes import from, a folder before all that they would."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def gone(folder: Path, within_s: float = 10.0) -> bool:
    """Whether no rank of a training is left, soon."""
    until_s = time.monotonic() + within_s
    while ranks_of(folder):
        if time.monotonic() > until_s:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(("count", "micro_batch", "accumulation"), [(2, 2, 2), (3, 1, 4), (4, 2, 1)])
def test_the_rows_of_a_step_are_those_of_one_process(count: int, micro_batch: int, accumulation: int) -> None:
    """What accelerate does with a data set in our order: rank by rank, one micro-batch after the other."""
    batch, steps = count * micro_batch * accumulation, 5
    sampler = BatchSampler(SequentialSampler(range(batch * steps)), batch_size=micro_batch, drop_last=False)
    shards = [list(BatchSamplerShard(sampler, count, number, even_batches=True)) for number in range(count)]
    for step in range(steps):
        seen = [
            row for shard in shards for rows in shard[step * accumulation : (step + 1) * accumulation] for row in rows
        ]
        assert sorted(seen) == list(range(step * batch, (step + 1) * batch))


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, list[str]]:
    """A training of two processes that nobody disturbed."""
    folder, lines = tmp_path_factory.mktemp("whole"), []  # type: ignore[var-annotated] # of strings
    outcome = train("sft", ranked("sft", tiny_llama, data, folder, processes=2), lines.append)
    return folder, outcome, lines


def test_two_processes_do_what_one_does(
    whole: tuple[Path, Outcome, list[str]], tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    folder, two, said = whole
    lines: list[str] = []
    one = train("sft", ranked("sft", tiny_llama, data, tmp_path, processes=1), lines.append)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert two.metrics["tokens"] == one.metrics["tokens"]
    each, alone = (
        [float(line.split(" ")[5].rstrip(",")) for line in some if line.startswith("step")] for some in (said, lines)
    )
    assert each == pytest.approx(alone, abs=2e-4)
    assert len(each) == STEPS
    assert furthest(folder / "out", tmp_path / "out") < 1e-5
    assert said[0].startswith("24 rows, 8 steps of 8 rows (2 x 2) on each of 2 x ")


def test_the_record_says_how_many_and_how(whole: tuple[Path, Outcome, list[str]]) -> None:
    folder, outcome, _ = whole
    assert outcome.micro_batch == 2
    facts = {name: outcome.environment[name] for name in ("processes", "accumulation", "threads")}
    assert facts == {"processes": "2", "accumulation": "2", "threads": "1"}
    assert "sharding" not in outcome.environment
    assert "processes" in outcome.depends_on
    assert {"torch", "trl", "python"} <= outcome.environment.keys()
    assert not (folder / "work" / "ranks").exists()


def test_whoever_starts_the_ranks_is_killed_and_they_with_it_and_the_next_goes_on(
    whole: tuple[Path, Outcome, list[str]], tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    """The next try has other settings: it keeps the number of processes all the same, and so its bytes."""
    command = [sys.executable, "-m", "tests.integration.ranked", "sft", *map(str, (tiny_llama, data, tmp_path, 2))]
    child = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert gone(tmp_path)
    assert any_checkpoint(tmp_path / "work")
    lines: list[str] = []
    context = ranked("sft", tiny_llama, data, tmp_path, processes=1, micro_batch=4)
    outcome = train("sft", context, lines.append)
    assert "resuming from the checkpoint of step 4" in lines
    assert outcome.environment["processes"] == "2"
    assert training.sums(tmp_path / "out") == training.sums(whole[0] / "out")


# The rest takes ten seconds and more each


STAGES: dict[str, tuple[str, object]] = {
    "full": ("sft", training.sft_stage(steps=4, batch=8, learning_rate=1e-3)),
    "head": ("sft", training.sft_stage(targets=["head", "mlp"], steps=4, batch=8, learning_rate=1e-3)),
    "packed": ("sft", training.sft_stage(steps=4, batch=4, packing=True, max_length=64, learning_rate=1e-3)),
    "dpo": ("dpo", training.dpo_stage(training.lora(dropout=0.0), steps=4, batch=8, learning_rate=1e-3)),
    "dpo full": ("dpo", training.dpo_stage(steps=4, batch=8, learning_rate=1e-3)),
    "pretrain": ("pretrain", training.pretrain_stage(batch=8)),
    "orpo": ("orpo", preference_kinds.stage_of("orpo", training.lora(dropout=0.0), batch=8, learning_rate=1e-3)),
    "cpo": ("cpo", preference_kinds.stage_of("cpo", training.lora(dropout=0.0), batch=8, learning_rate=1e-3)),
    "reward": ("reward", preference_kinds.stage_of("reward", batch=8, learning_rate=1e-3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_each_kind_does_what_it_does_alone(name: str, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    kind, stage = STAGES[name]
    one, two = (
        train(kind, ranked(kind, tiny_llama, data, tmp_path / str(count), processes=count, stage=stage))
        for count in (1, 2)
    )
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert two.metrics.keys() == one.metrics.keys()
    for label, figure in one.metrics.items():
        assert two.metrics[label]["value"] == pytest.approx(figure["value"], abs=2e-4), label
    assert furthest(tmp_path / "1" / "out", tmp_path / "2" / "out") < 1e-4
    assert two.components == one.components


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_dropout_and_buckets_resume_to_the_same_bytes(
    processes: int, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    """Three, since sums of two are the same in any order."""
    stage = training.sft_stage(training.lora(), steps=6, batch=6, learning_rate=1e-2)
    folders = (tmp_path / "whole", tmp_path / "ended")
    whole, context = (ranked("sft", tiny_llama, data, one, processes, stage=stage, micro_batch=1) for one in folders)
    train("sft", whole)
    with pytest.raises(MachineError) as caught:
        train("sft", context, at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert str(caught.value).startswith("ended by ")
    assert gone(tmp_path)
    lines: list[str] = []
    train("sft", context, lines.append)
    assert any(line.startswith("resuming from the checkpoint of step") for line in lines)
    assert training.sums(tmp_path / "ended" / "out") == training.sums(tmp_path / "whole" / "out")


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_them_all(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    context = ranked("sft", tiny_llama, data, tmp_path, processes=2)
    with pytest.raises(MachineError) as caught:
        train("sft", context, at(3, lambda: os.kill(ranks_of(tmp_path)[1], signal.SIGKILL)))
    assert str(caught.value) == (
        "process 1 of 2 was lost: SIGKILL\n"
        "  where: v:stage\n"
        f"  mend: see {tmp_path}/work/ranks/1.log; SIGKILL is most often the system's, out of memory. Run it again: it "
        "goes on from its last checkpoint"
    )
    assert gone(tmp_path, within_s=0.0)


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(
    tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    stage = training.sft_stage(training.lora(), steps=2, batch=3)
    with pytest.raises(InvalidError) as caught:
        train("sft", ranked("sft", tiny_llama, data, tmp_path, processes=2, stage=stage))
    assert str(caught.value) == (
        "a batch of 3 cannot be shared by 2 devices\n  where: train.batch\n  mend: make it a multiple of 2"
    )
    assert not (tmp_path / "work" / "ranks").exists()


@pytest.mark.slow
def test_what_a_rank_raises_is_what_the_stage_raises(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    stage = training.sft_stage(training.lora("head"), steps=2, batch=4)
    with pytest.raises(InvalidError) as caught:
        train("sft", ranked("sft", tiny_llama, data, tmp_path, processes=2, stage=stage))
    assert caught.value.where == 'adapter.targets: ["head"]'
    assert gone(tmp_path, within_s=0.0)


@pytest.mark.slow
def test_a_rank_that_fails_unforeseen_says_where_to_look(
    tiny_llama: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken" / "trl").mkdir(parents=True)
    (tmp_path / "broken" / "trl" / "__init__.py").write_text("raise RuntimeError('nobody thought of this')\n")
    monkeypatch.setenv("PYTHONPATH", with_path(tmp_path / "broken"))
    with pytest.raises(MachineError) as caught:
        train("sft", ranked("sft", tiny_llama, data, tmp_path, processes=2))
    assert "failed: RuntimeError: nobody thought of this" in caught.value.what
    log = Path(caught.value.mend.removeprefix("see "))
    assert "nobody thought of this" in log.read_text()


@pytest.mark.slow
def test_a_rank_without_memory_has_them_all_try_smaller_micro_batches(
    tiny_llama: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second rank stands in for a card that holds two rows."""
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import torch\n"
        "    from transformers import Trainer\n"
        "    step = Trainer.training_step\n"
        "    def training_step(self, model, inputs, *more):\n"
        "        if len(inputs['input_ids']) > 2:\n"
        "            raise torch.OutOfMemoryError('CUDA out of memory.')\n"
        "        return step(self, model, inputs, *more)\n"
        "    Trainer.training_step = training_step\n"
    )
    monkeypatch.setenv("PYTHONPATH", with_path(tmp_path / "small"))
    lines: list[str] = []
    outcome = train("sft", ranked("sft", tiny_llama, data, tmp_path, processes=2, micro_batch=4), lines.append)
    assert "the device's memory is too small for 4 rows at once: again with 2, 2 times a step" in lines
    assert (outcome.micro_batch, outcome.environment["accumulation"]) == (2, "2")


@pytest.mark.slow
def test_two_that_start_at_once_wait_for_each_other(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    """Ranks of a try that was killed hold a lock until they have ended."""
    context = ranked("sft", tiny_llama, data, tmp_path, processes=2)
    folder = context.work / "ranks"
    folder.mkdir(parents=True)
    holder = subprocess.Popen(["flock", str(folder / "lock"), "sleep", "1"])
    while not (folder / "lock").exists():
        time.sleep(0.01)
    began_s = time.monotonic()
    train("sft", context)
    assert holder.wait() == 0
    assert time.monotonic() - began_s > 1.0


@pytest.mark.slow
def test_the_number_of_processes_is_no_part_of_what_decides_a_rebuild(fresh: Team, tmp_path: Path) -> None:
    team = fresh.copy(tmp_path / "team")
    runner = team.root / ".varietal" / "runner.yaml"
    runner.parent.mkdir(exist_ok=True)
    runner.write_text("processes: 2\nthreads: 1\ndevice: cpu\n")
    team.must("dvc", "repro", "models/support/dvc.yaml:tone")
    path = team.root / artifact_record("support", "tone")
    record = Record.from_bytes(path.read_bytes(), where=str(path))
    assert record.environment["processes"] == "2"
    assert "processes" in record.depends_on
    assert record.peak_memory_mib > 100, "that of a rank, not of the process that started it"
    assert not (team.root / ".varietal" / "work" / record.action.digest.hex).exists()
    runner.write_text("processes: 1\n")
    assert team.must("dvc", "repro", "models/support/dvc.yaml:tone").ran == []


def test_every_kind_that_may_be_shared_was_tried() -> None:
    assert {kind for kind, _ in STAGES.values()} == {name for name, kind in KINDS.items() if kind.ranks}


# Every weight in parts. Accelerate shards on GPUs alone; here its ranks take the processor for one


@pytest.fixture
def sharded(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("PYTHONPATH", with_path(SHARDED_ON_CPU))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    return {"sharding": "fsdp2", "device": "auto"}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["full", "tied", "head", "adapter", "packed", "mixed"])
def test_sharded_weights_learn_the_same(
    what: str, make_model: MakeModel, data: Path, tmp_path: Path, sharded: dict[str, str]
) -> None:
    base = make_model("llama", tied=what == "tied", dtype="bfloat16" if what == "mixed" else "float32")
    near = 1e-2 if what == "mixed" else 1e-5
    _, stage = STAGES.get(what, STAGES["full"])
    if what == "adapter":
        stage = training.sft_stage(training.lora(dropout=0.0), steps=4, batch=8, learning_rate=1e-3)
    if what == "mixed":
        stage = training.sft_stage(steps=4, batch=8, learning_rate=1e-3, precision="mixed-bfloat16")
    two = train("sft", ranked("sft", base, data, tmp_path / "2", processes=2, stage=stage, **sharded))
    one = train("sft", ranked("sft", base, data, tmp_path / "1", processes=1, stage=stage))
    assert two.environment["sharding"] == "fsdp2"
    assert (tmp_path / "2" / "work" / "checkpoint-2" / "pytorch_model_fsdp_0").is_dir(), "it was sharded"
    assert losses(two) == pytest.approx(losses(one), abs=near)
    assert furthest(tmp_path / "1" / "out", tmp_path / "2" / "out") < near
    assert two.components == one.components
    assert sorted(training.sums(tmp_path / "1" / "out")) == sorted(training.sums(tmp_path / "2" / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["full", "adapter"])
def test_a_sharded_training_resumes_to_the_same_bytes(
    what: str, make_model: MakeModel, data: Path, tmp_path: Path, sharded: dict[str, str]
) -> None:
    base = make_model("llama", dtype="bfloat16")
    adapter = training.lora() if what == "adapter" else None
    stage = training.sft_stage(adapter, steps=6, batch=8, learning_rate=1e-2, precision="mixed-bfloat16")
    whole, ended = (
        ranked("sft", base, data, tmp_path / name, 2, stage=stage, **sharded) for name in ("whole", "ended")
    )
    train("sft", whole)
    with pytest.raises(MachineError):
        train("sft", ended, at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    train("sft", ended)
    assert training.sums(tmp_path / "ended" / "out") == training.sums(tmp_path / "whole" / "out")
