"""Training on rated answers by TRL's GRPO; the reference is the model, or the adapter, as it came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from builder.engines.rollouts import train_rated

if TYPE_CHECKING:
    from builder.engines.job import Job, Trained
    from builder.online_settings import GrpoTraining

__all__ = ["own_settings", "train_grpo"]


def train_grpo(job: Job, *, training: GrpoTraining, **given: Any) -> Trained:  # noqa: ANN401 - TRL has no types
    """Train by group relative policy optimisation; arguments and errors as of :func:`train_rated`."""
    return train_rated(GRPOTrainer, GRPOConfig, job, training=training, own=own_settings(training), **given)


def own_settings(training: GrpoTraining) -> dict[str, Any]:
    """What only GRPO is told, in TRL's words."""
    return {
        "loss_type": training.loss_type,
        "scale_rewards": training.scale_rewards,
        "multi_objective_aggregation": training.multi_objective_aggregation,
        "importance_sampling_level": training.importance_sampling_level,
        "delta": training.delta or None,
        "top_entropy_quantile": training.top_entropy_quantile,
        "entropy_coef": training.entropy_coef,
        "sapo_temperature_neg": training.sapo_temperature_neg,
        "sapo_temperature_pos": training.sapo_temperature_pos,
    }
