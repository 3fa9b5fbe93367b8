"""``grpo``: training on rated answers, compared within their group; whole models, components, adapters new and old."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.stages.online import train_on_rewards

if TYPE_CHECKING:
    from builder.engines.job import Job, Trained
    from builder.stage import Context, Outcome
    from builder.train_stages import GrpoStage

__all__ = ["grpo"]


def grpo(context: Context[GrpoStage]) -> Outcome:
    """Train by group relative policy optimisation; errors as of :func:`train_on_rewards`."""
    return train_on_rewards(context, _train)


def _train(job: Job, **given: Any) -> Trained:  # noqa: ANN401 - TRL has no types
    from builder.engines.grpo import train_grpo  # noqa: PLC0415 - the libraries read what start() has set

    return train_grpo(job, **given)
