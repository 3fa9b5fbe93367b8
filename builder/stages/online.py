"""What the stages share that train on rated answers: rows, rewards, prompts, and the figures of the sampling."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from builder.stages.data_rows import training_rows
from builder.stages.prompts import encode_prompts
from builder.stages.rewards import RatedRows, open_functions
from builder.stages.subject import open_subject
from builder.stages.trained import finish
from builder.stages.training import check_length, make_job, start

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from builder.engines.job import Trained
    from builder.stage import Context, Outcome
    from builder.stages.rewards import Reward

__all__ = ["sampled_figures", "train_on_rewards"]

_NAMES: Final = {
    "reward": "train_reward",
    "reward_std": "train_rewards_std",
    "kl": "train_kl",
    "entropy": "train_entropy",
    "completions/mean_length": "train_completion_length",
    "completions/clipped_ratio": "train_clipped_share",
    "frac_reward_zero_std": "train_undecided_share",
}


def train_on_rewards(context: Context[Any], train: Callable[..., Trained]) -> Outcome:
    """Train on answers that the model samples and rewards rate.

    Args:
        context: A ``grpo`` or ``rloo`` stage.
        train: Imports the engine and calls it.

    Raises:
        InvalidError: Rows, rewards, selector or chat template do not do, or a reward cannot rate an answer.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    stage, rows = context.settings, training_rows(context)
    training = stage.train
    data = RatedRows(rows=rows.rows, places=rows.places, source=rows.source)
    with open_functions(context, data) as functions:
        device = start(context)
        from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set
        from builder.stages.reward_models import open_reward_models  # noqa: PLC0415 - needs torch

        with quiet(), open_reward_models(context, device) as models:
            rewards = sorted([*functions, *models], key=lambda one: one.label)
            subject = open_subject(context, device)
            room = training.max_length - training.max_completion_length
            encoded = encode_prompts(subject.tokenizer, data.rows, room=room, where=data.source, places=data.places)
            longest = encoded.longest + training.max_completion_length
            check_length(subject.model, longest, rows)
            answers = len(encoded.prompts) * training.num_generations * training.num_iterations
            job = make_job(context, device, training, rows=answers, row_tokens=longest, model=subject.model)
            trained = train(
                job,
                model=subject.model,
                tokenizer=subject.tokenizer,
                prompts=encoded.prompts,
                data=data,
                rewards=rewards,
                training=training,
                new_adapter=subject.new_adapter,
            )
            outcome = finish(context, stage.kind, subject, trained, job, notes=(*rows.notes, *encoded.notes()))
    return replace(outcome, metrics={**outcome.metrics, **sampled_figures(trained.history, rewards)})


def sampled_figures(
    history: Sequence[Mapping[str, float]], rewards: Sequence[Reward] = ()
) -> dict[str, dict[str, float]]:
    """Means over the last tenth of the steps, of those in which answers were sampled.

    Args:
        history: What was logged of each step.
        rewards: Each has a mean of its own.
    """
    names = _NAMES | {f"rewards/{one.label}/mean": f"train_reward_{one.label}" for one in rewards}
    tail = history[-max(1, len(history) // 10) :]
    found: dict[str, dict[str, float]] = {}
    for name, label in names.items():
        told = [entry for entry in history if entry.get(name) is not None]
        values = [float(entry[name]) for entry in tail if entry.get(name) is not None] or [
            float(entry[name]) for entry in told[-1:]
        ]
        if values:
            found[label] = {"value": sum(values) / len(values)}
    return found
