"""Training on rated answers by TRL's RLOO; the reference is the model, or the adapter, as it came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from builder.engines.rollouts import train_rated

if TYPE_CHECKING:
    from builder.engines.job import Job, Trained
    from builder.online_settings import RlooTraining

__all__ = ["own_settings", "train_rloo"]


def train_rloo(job: Job, *, training: RlooTraining, **given: Any) -> Trained:  # noqa: ANN401 - TRL has no types
    """Train by REINFORCE leave-one-out; arguments and errors as of :func:`train_rated`."""
    return train_rated(RLOOTrainer, RLOOConfig, job, training=training, own=own_settings(training), **given)


def own_settings(training: RlooTraining) -> dict[str, Any]:
    """What only RLOO is told, in TRL's words."""
    low_high = training.reward_clip_range
    return {
        "normalize_advantages": training.normalize_advantages,
        "reward_clip_range": (low_high[0], low_high[1]) if low_high else None,
    }
