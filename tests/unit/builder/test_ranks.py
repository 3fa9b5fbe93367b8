"""How many processes share a training, and what each has."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from builder import launch
from builder.adapter_types.lora import LoraSettings
from builder.engines.schedule import Split, keep_split, kept_split
from builder.kinds import KINDS
from builder.manifest import SftStage
from builder.rank_messages import Raised
from builder.ranks import MEETING, Ranks, can_share, choose_ranks, rank_environment
from builder.runner import Runner
from builder.stage import Context
from builder.train_settings import SftTraining
from registry.errors import Fault, InvalidError, MachineError

if TYPE_CHECKING:
    from pathlib import Path

    from builder.ranks import Sharding

KEPT = Split(micro_batch=2, accumulation=2, threads=3, processes=2, sharding="fsdp2")


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_the_best_weights_in_parts_are_refused_before_anything_is_loaded(sharding: Sharding, tmp_path: Path) -> None:
    stage = SftStage(from_="from", data={"data": 1.0}, train=SftTraining(keep="best"))
    runner = Runner(processes=2, sharding=sharding)
    context = Context(
        settings=stage, inputs=(), work=tmp_path, out=tmp_path, root=tmp_path, runner=runner, say=lambda _: None
    )
    with mock.patch.object(launch, "_devices", return_value=("0", "1")):
        if sharding == "none":
            assert launch.together("sft", KINDS["sft"], context, where="v:s") is not None
            return
        with pytest.raises(InvalidError) as caught:
            launch.together("sft", KINDS["sft"], context, where="v:s")
    assert (caught.value.where, "write `keep: last`" in caught.value.mend) == ("train.keep", True)


def test_one_process_needs_nobody_else() -> None:
    assert choose_ranks(Runner(sharding="fsdp2"), kept=None, devices=("0", "1"), cores=8) is None


def test_each_has_a_gpu_and_its_share_of_the_processors() -> None:
    found = choose_ranks(Runner(processes=2), kept=None, devices=("3", "GPU-a", "5"), cores=9)
    assert found == Ranks(count=2, sharding="none", threads=4, devices=("3", "GPU-a"))


def test_without_gpus_they_share_the_processors() -> None:
    found = choose_ranks(Runner(processes=4, sharding="fsdp2"), kept=None, devices=(), cores=2)
    assert found == Ranks(count=4, sharding="none", threads=1, devices=())


def test_threads_by_the_settings_are_those_of_each() -> None:
    found = choose_ranks(Runner(processes=2, threads=5), kept=None, devices=(), cores=2)
    assert found is not None
    assert found.threads == 5


def test_weights_that_cannot_be_had_in_parts_are_whole_in_each() -> None:
    found = choose_ranks(Runner(processes=2, sharding="fsdp2"), kept=None, devices=("0", "1"), cores=2)
    assert found is not None
    assert found.sharding == "fsdp2"
    whole = choose_ranks(Runner(processes=2, sharding="fsdp2"), kept=None, devices=("0", "1"), cores=2, shares=False)
    assert whole is not None
    assert whole.sharding == "none"


@pytest.mark.parametrize("runner", [Runner(), Runner(processes=4, threads=1)])
def test_a_resume_keeps_what_it_began_with(runner: Runner) -> None:
    found = choose_ranks(runner, kept=KEPT, devices=("0", "1", "2", "3"), cores=8)
    assert found == Ranks(count=2, sharding="fsdp2", threads=3, devices=("0", "1"))


def test_a_resume_of_one_process_stays_one() -> None:
    kept = Split(micro_batch=2, accumulation=2, threads=3)
    assert choose_ranks(Runner(processes=4), kept=kept, devices=(), cores=8) is None


def test_more_processes_than_gpus() -> None:
    with pytest.raises(MachineError) as caught:
        choose_ranks(Runner(processes=4), kept=None, devices=("0", "1"), cores=8)
    assert str(caught.value) == (
        "the training is to have 4 processes, each with a GPU of its own, and may use 2 GPUs\n"
        "  where: .varietal/runner.yaml: processes\n"
        "  mend: write `processes: 2`, or let the stage see more of them"
    )


def test_a_resume_on_fewer_gpus_than_it_began_with() -> None:
    with pytest.raises(MachineError) as caught:
        choose_ranks(Runner(), kept=KEPT, devices=("0",), cores=8)
    assert str(caught.value) == (
        "the training began with 2 processes, each with a GPU of its own, and may use 1 GPU\n"
        "  where: .varietal/work\n"
        "  mend: resume it where there are 2; or remove its folder in .varietal/work to begin anew with fewer"
    )


@pytest.mark.parametrize(
    ("adapter", "goes_on", "can"),
    [
        (None, False, True),
        (None, True, False),
        (LoraSettings(), False, True),
        (LoraSettings(dora=True), False, False),
        (LoraSettings(init="pissa"), False, False),
        (LoraSettings(base="nf4"), False, False),
        (SimpleNamespace(type="vera"), False, False),
    ],
)
def test_what_is_shared_is_what_tests_show(adapter: object, can: bool, goes_on: bool) -> None:  # noqa: FBT001
    assert can_share(SimpleNamespace(adapter=adapter), goes_on=goes_on) is can


def test_a_rank_sees_its_own_gpu_alone() -> None:
    ranks = Ranks(count=2, sharding="none", threads=4, devices=("3", "GPU-a"))
    own = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "3,GPU-a", "OMP_NUM_THREADS": "8", "NCCL_SOCKET_IFNAME": "eth0"}
    assert rank_environment(own, ranks, 1, meeting="meeting", loopback="lo") == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "GPU-a",
        "OMP_NUM_THREADS": "4",
        "MKL_NUM_THREADS": "4",
        MEETING: "meeting",
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "eth0",
    }


def test_ranks_without_gpus_leave_that_variable_alone() -> None:
    ranks = Ranks(count=2, sharding="none", threads=1, devices=())
    found = rank_environment({}, ranks, 0, meeting="m", loopback="")
    assert not {"CUDA_VISIBLE_DEVICES", "GLOO_SOCKET_IFNAME"} & found.keys()


def test_the_split_remembers_the_processes(tmp_path: Path) -> None:
    keep_split(tmp_path, KEPT)
    assert kept_split(tmp_path) == KEPT


def test_an_error_comes_out_of_another_process_as_it_went_in() -> None:
    fault = Fault(file="data/a.jsonl", line=3, key="messages", problem="empty", mend="write one")
    for error in (
        InvalidError.from_faults([fault]),
        MachineError("it broke", where="here", mend="mend it"),
    ):
        came = pickle.loads(pickle.dumps(Raised.of(error))).error()  # noqa: S301 - what was dumped just now
        assert type(came) is type(error)
        assert str(came) == str(error)
        assert vars(came) == vars(error)
