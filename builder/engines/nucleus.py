"""Sampling with ``top_p`` on a GPU: it sums probabilities, and torch names no deterministic sum for that.

Deterministic kernels are asked for all over a training, and a kernel that is none is an error. Here alone it is let
pass: the sum runs along each row of the batch, in one order, and only answers come of it, no gradient.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import torch

from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.engines.job import Job
    from builder.online_settings import SampledTraining

__all__ = ["sampling_trainer"]

_SAMPLES: Final = "_generate_single_turn"  # TRL's method around transformers' `generate`


def sampling_trainer(trainer_class: Any, job: Job, training: SampledTraining) -> Any:  # noqa: ANN401 - no types
    """The trainer class for a stage; another one only where it samples with ``top_p`` on a GPU.

    Raises:
        MachineError: The installed TRL samples in another way.
    """
    if job.device.kind == "cpu" or training.top_p == 1.0:
        return trainer_class
    method = getattr(trainer_class, _SAMPLES, None)
    if method is None:
        raise MachineError(
            "the installed TRL samples in another way, so `top_p` cannot be had with deterministic kernels",
            where=f"trl.{trainer_class.__name__}",
            mend="install trl 1.16, or take `top_p` out; `top_k` and `min_p` do without",
        )
    return type(trainer_class.__name__, (trainer_class,), {_SAMPLES: _let_pass(method)})


def _let_pass(method: Callable[..., Any]) -> Callable[..., Any]:
    def sample(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - TRL has no types
        mode = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("warn")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*deterministic.*")
                return method(*given, **named)
        finally:
            torch.set_deterministic_debug_mode(mode)

    return sample
