"""GPUs: what the driver shows, whether torch was built for it, and what the runner's settings ask for."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from builder.doctor.child import ask_module, ask_program
from builder.doctor.finding import failed, good, poor
from builder.runner import RUNNER_FILE, read_runner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.doctor.finding import Finding
    from registry.canonical import JSON

__all__ = ["gpu_findings", "judge_gpus"]

_TIMEOUT_S: Final = 120.0
_DRIVER: Final = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")


def gpu_findings(root: Path, *, build: bool) -> Iterator[Finding]:
    """What there is to say of the GPUs.

    Raises:
        InvalidError: The runner's settings are at fault.
    """
    device = read_runner(root).device
    shown = ask_program(_DRIVER, root=root, timeout_s=_TIMEOUT_S)
    cards = [line for line in shown.splitlines() if line.count(",") == 2]  # noqa: PLR2004 - name, memory, driver
    if find_spec("torch") is None:
        if build:
            mend = "install the torch build for this machine's driver, then 'varietal[build]'"
            yield failed("torch", "not installed", mend)
        return
    answer = ask_module("builder.doctor.gpu_probe", [], root=root, timeout_s=_TIMEOUT_S)
    yield judge_gpus(cards, answer, device=device)


def judge_gpus(cards: Sequence[str], answer: Mapping[str, JSON] | str, *, device: str) -> Finding:
    """What the driver and torch say, held together. Pure.

    Args:
        cards: One line a card, as the driver shows them.
        answer: What torch found, or why it found nothing.
        device: What the runner's settings ask for.
    """
    if isinstance(answer, str):
        return failed("torch", f"cannot be loaded: {answer}", "install it again: the build for this machine's driver")
    made_for = f" for CUDA {answer['cuda']}" if answer["cuda"] else ", for CPUs alone"
    build = f"torch {answer['torch']}{made_for}"
    wrong = "install the torch build for this driver: its CUDA must not be newer than the driver's (`nvidia-smi`)"
    if cards and (answer["problem"] or not answer["usable"]):
        said = answer["problem"] or "torch can use none of them"
        return failed("GPU", f"{'; '.join(cards)}; {build}: {said}", wrong)
    if answer["usable"]:
        names = answer["names"]
        return good("GPU", f"{', '.join(map(str, names)) if isinstance(names, list) else names}; {build}")
    if device == "cuda":
        said = f"none, and {RUNNER_FILE} asks for one; {build}"
        return failed("GPU", said, "write `device: auto`, or install the driver")
    return poor("GPU", f"none: stages run on the CPU; {build}", "nothing, where that is meant; else install the driver")
