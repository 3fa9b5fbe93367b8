"""What belongs to the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.runner import Runner, read_runner
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path


def read(root: Path, text: str) -> Runner:
    (root / ".varietal").mkdir()
    (root / ".varietal/runner.yaml").write_text(text)
    return read_runner(root)


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert read_runner(tmp_path) == Runner(micro_batch=0, checkpoint_steps=50, device="auto", threads=0)


def test_what_is_written_holds(tmp_path: Path) -> None:
    assert read(tmp_path, "micro_batch: 4\ndevice: cpu\n") == Runner(micro_batch=4, device="cpu")


def test_what_a_build_hands_out(tmp_path: Path) -> None:
    text = (
        "jobs: 2\ndevices: ['0', GPU-1a]\npush: store\nenvironment: [HF_TOKEN]\ngrace_s: 5\nprogress_key: ~/gpu key\n"
    )
    assert read(tmp_path, text) == Runner(
        jobs=2, devices=("0", "GPU-1a"), push="store", environment=("HF_TOKEN",), grace_s=5.0, progress_key="~/gpu key"
    )


def test_an_empty_file_is_no_fault(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing yet\n") == Runner()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("microbatch: 4\n", ".varietal/runner.yaml:1: microbatch: unknown key"),
        ("micro_batch: yes\n", ".varietal/runner.yaml:1: micro_batch: expected an integer from 0 to 1000000"),
        ("micro_batch: true\n", ".varietal/runner.yaml:1: micro_batch: expected an integer from 0 to 1000000"),
        ("threads: 1\ndevice: gpu\n", ".varietal/runner.yaml:2: device: expected"),
        ("checkpoint_steps: 0\n", ".varietal/runner.yaml:1: checkpoint_steps: expected"),
        ("- 1\n", ".varietal/runner.yaml"),
        ("jobs: -1\n", ".varietal/runner.yaml:1: jobs: expected an integer from 0 to 1024"),
        ("devices: [0]\n", ".varietal/runner.yaml:1: devices[0]: expected a GPU, by number or by id"),
        ("push: --force\n", ".varietal/runner.yaml:1: push: expected the name of a DVC remote"),
        ('progress_key: "a\\tb"\n', ".varietal/runner.yaml:1: progress_key: expected the path of a file, without"),
        ("environment: [A-B]\n", ".varietal/runner.yaml:1: environment[0]: expected the name of a variable"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(InvalidError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(fault)
    assert "mend: " in str(caught.value)
