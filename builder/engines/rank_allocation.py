"""AdaLoRA's ranks, dropped on the way: after each optimiser step the least important directions are set to nothing.

PEFT leaves the calls to the trainer. It also writes only the ranks that are left, so what it knows of them is kept from
it until the end: checkpoints are whole then, and the averages that the choice depends on are saved beside.

The term that keeps the vectors orthogonal is PEFT's addition to the loss that a model gives, and TRL's trainers make
their losses themselves. So its gradient is added here, after the clipping, whatever the kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.engines.job import Job

__all__ = ["RankAllocation"]

_FILE = "rank_allocation.safetensors"
_AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
_PATTERN = "rank_pattern"
_DOWN, _UP = ".lora_A.", ".lora_B."


class RankAllocation(TrainerCallback):  # type: ignore[misc] # transformers has no types
    """Calls PEFT's allocator, and keeps its state through a kill."""

    def __init__(self, tuner: Any, job: Job) -> None:  # noqa: ANN401 - PEFT has no types
        """Tell the allocator how long the training is.

        Args:
            tuner: PEFT's AdaLoRA model.
            job: Settings and place.

        Raises:
            InvalidError: No step is left to drop ranks in.
        """
        self._tuner, self._allocator, self._folder = tuner, tuner.rankallocator, job.folder
        self._config = tuner.peft_config[tuner.trainable_adapter_name]
        self._pattern: dict[str, list[bool]] = {}
        if self._config.tinit + self._config.tfinal >= job.steps - 1:
            raise InvalidError(
                f"of {job.steps} steps {self._config.tinit} come before ranks are dropped, {self._config.tfinal} after",
                where="adapter.tinit",
                mend="lower `tinit` and `tfinal`, or train longer",
            )
        self._allocator.set_total_step(job.steps)
        self._weight = self._config.orth_reg_weight
        self._config.orth_reg_weight = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Take up the averages of the checkpoint that the training goes on from."""
        if not state.global_step:
            return
        found = load_file(Path(self._folder) / f"checkpoint-{state.global_step}" / _FILE)
        for average in _AVERAGES:
            setattr(self._allocator, average, _under(found, average))
        self._allocator.ipt = {name: torch.zeros_like(one) for name, one in self._allocator.exp_avg_ipt.items()}
        self._pattern = {name: one.tolist() for name, one in _under(found, _PATTERN).items()}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Add the gradient of the term for orthogonality."""
        named = self._tuner.model.named_parameters()
        factors = {name: one for name, one in named if _is_factor(name) and one.requires_grad}
        with torch.enable_grad():
            parts = [_crookedness(one if _DOWN in name else one.T) for name, one in factors.items()]
            gradients = torch.autograd.grad(self._weight * torch.stack(parts).mean(), [*factors.values()])
        for factor, gradient in zip(factors.values(), gradients, strict=True):
            if factor.grad is not None:
                factor.grad += gradient

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Drop what the schedule says; after the last drop, hold what was dropped at nothing."""
        step, last = state.global_step + 1, self._config.total_step - self._config.tfinal
        if step > last:
            self._allocator.mask_using_rank_pattern(self._tuner.model, self._pattern)
            return
        _, pattern = self._allocator.update_and_allocate(self._tuner.model, step, force_mask=step == last)
        self._pattern = pattern or self._pattern

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Put the averages into the checkpoint, before it is sealed."""
        if not state.is_world_process_zero:
            return
        tensors = {
            f"{average}/{name}": tensor.detach().cpu().contiguous()
            for average in _AVERAGES
            for name, tensor in getattr(self._allocator, average).items()
        }
        tensors |= {f"{_PATTERN}/{name}": torch.tensor(kept) for name, kept in self._pattern.items()}
        save_file(tensors, Path(self._folder) / f"checkpoint-{state.global_step}" / _FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Tell PEFT which ranks are left, so that it writes no others."""
        self._config.rank_pattern = self._pattern or None


def _is_factor(name: str) -> bool:
    return _DOWN in name or _UP in name


def _crookedness(rows: torch.Tensor) -> torch.Tensor:
    """How far vectors are from orthogonal ones of length 1."""
    eye = torch.eye(rows.shape[0], device=rows.device, dtype=rows.dtype)
    far: torch.Tensor = (rows @ rows.T - eye).norm()
    return far


def _under(found: dict[str, torch.Tensor], word: str) -> dict[str, torch.Tensor]:
    """The tensors of one table, by their own names."""
    return {name.partition("/")[2]: one for name, one in found.items() if name.startswith(f"{word}/")}
