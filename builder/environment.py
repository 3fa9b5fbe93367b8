"""What a stage runs on: device, threads, versions; and the settings that make the same run give the same bytes.

Nothing here imports torch at the top: `prepare` must come before the first import of it, since OpenMP and cuBLAS read
their variables once, at start.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.runner import Runner

__all__ = [
    "COMPILED_LAYERS",
    "DEPENDS_ON",
    "Device",
    "Gain",
    "device_memory_mib",
    "environment",
    "prepare",
    "processor",
]

COMPILED_LAYERS = "compiled layers"
"""What they depend on, too, where a network's layers were compiled."""

DEPENDS_ON = ("device", "versions", "micro-batch", "threads")
"""What results of arithmetic depend on beyond inputs and settings, by its rounding."""

_PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
    "varietal",
)

_SILENT: Mapping[str, str] = {
    # No network: every input lies on disk before a stage starts.
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # No bars and no advice on the terminal: a stage talks through Context.say.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
    "USE_TF": "0",
    "USE_JAX": "0",
}


Gain: TypeAlias = Literal["much", "little", "none"]
"""What a GPU gives a stage: ``auto`` takes one where it gives much, ``cuda`` where it gives anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Where the arithmetic of a stage happens.

    Attributes:
        kind: ``cpu`` or ``cuda``, as torch names it.
        name: As a record says it, such as ``NVIDIA H200`` or the processor's own name.
        threads: CPU threads of one operation.
        shares: Whether it will hold a part of every weight, one of several devices that do.
    """

    kind: str
    name: str
    threads: int
    shares: bool = False

    @property
    def opens_on(self) -> str:
        """Where weights are put when they are opened: those to be taken apart stay in the host's memory till then."""
        return "cpu" if self.shares else self.kind


def prepare(runner: Runner, *, threads: int = 0, gain: Gain = "much") -> Device:
    """Make this process quiet, offline and deterministic, and choose its device.

    Args:
        runner: Settings of this machine.
        threads: CPU threads to take instead of the runner's; a resumed training keeps those that it began with.
        gain: What a GPU gives the stage.

    Raises:
        MachineError: The runner asks for a GPU and there is none.
    """
    wanted = threads or runner.threads or len(os.sched_getaffinity(0))
    os.environ.update(_SILENT)
    # A thread that waits sleeps: spinning makes a machine with anything else on it several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(wanted)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")
    if runner.device == "cpu" and gain == "much":  # others name their device themselves wherever they use one
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        # One process drives one GPU; with several in sight, transformers would spread a batch over them by itself.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    return _device(runner.device, wanted, gain)


def _device(wanted: str, threads: int, gain: Gain) -> Device:
    import torch

    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, without the import of a compiler
    # Filling fresh memory would cost time and protects only against reads of memory that nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # a property
    torch.backends.cudnn.benchmark = False
    found = (wanted == "cuda" or (wanted == "auto" and gain == "much")) and torch.cuda.is_available()
    if found and gain != "none":
        return Device(kind="cuda", name=torch.cuda.get_device_name(), threads=threads)
    if wanted == "cuda" and not found:
        raise MachineError(
            "no CUDA device is available",
            where=".varietal/runner.yaml: device",
            mend="write `device: auto`, or run on a machine with a GPU and a CUDA build of torch",
        )
    return Device(kind="cpu", name=processor(), threads=threads)


def processor() -> str:
    """The processor's own name; two models may round differently, so records keep it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def device_memory_mib() -> float:
    """Largest memory of the GPU that this process had allocated, MiB; 0 where it used none, or torch is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0.0
    return float(round(torch.cuda.max_memory_allocated() / (1 << 20), 1))


def environment() -> dict[str, str]:
    """Versions of what made the bytes, for the record; absent packages are left out."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | _torch_facts()


def _torch_facts() -> dict[str, str]:
    """Threads and instruction set, where torch is loaded: what else CPU arithmetic depends on."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    facts = {"threads": str(torch.get_num_threads()), "cpu_capability": str(torch.backends.cpu.get_cpu_capability())}
    if torch.version.cuda is not None:
        facts["cuda"] = str(torch.version.cuda)
    return facts
