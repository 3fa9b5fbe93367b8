"""What TRL's trainers on sampled answers share: prompts in our order, rewards by row, checkpoints that resume.

A batch of answers is sampled for each ``num_iterations`` optimiser steps, and is in no checkpoint. So checkpoints are
written only where a new batch begins; then the random numbers that TRL keeps with them give the same answers again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from builder.engines.arguments import arguments
from builder.engines.loop import run
from builder.engines.nucleus import sampling_trainer
from builder.engines.reference import keep_reference
from builder.engines.rendered import reader_of
from builder.engines.schedule import visit_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.engines.job import Job, Trained
    from builder.online_settings import RatedTraining, SampledTraining
    from builder.stages.prompts import Prompt
    from builder.stages.rewards import RatedRows, Reward

__all__ = [
    "aligned",
    "listener_of",
    "prompt_set",
    "reward_functions",
    "sampling",
    "train_rated",
    "train_sampled",
    "visited",
]


def train_rated(
    trainer_class: Callable[..., Any],
    config_class: Callable[..., Any],
    job: Job,
    *,
    model: Any,  # noqa: ANN401 - TRL has no types
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[Prompt],
    data: RatedRows,
    rewards: Sequence[Reward],
    training: RatedTraining,
    new_adapter: Any,  # noqa: ANN401
    own: dict[str, Any],
) -> Trained:
    """Train on answers that the model samples and rewards rate, by GRPO's or RLOO's trainer.

    Args:
        trainer_class: TRL's trainer.
        config_class: Its configuration.
        job: Settings and place.
        model: A causal model, or PEFT's wrapper of one; what requires gradients is trained, in place.
        tokenizer: Its tokenizer.
        prompts: What is asked.
        data: The rows that the prompts are of.
        rewards: What rates the answers.
        training: The stage's ``train`` table.
        new_adapter: PEFT configuration of an adapter to put on ``model``.
        own: What only this trainer is told.

    Raises:
        InvalidError: A reward cannot rate an answer.
        MachineError: The loss is no number, or the device's memory does not do.
    """
    job = aligned(job, training.num_iterations)
    config = config_class(
        **arguments(job),
        **sampling(training),
        **own,
        num_generations=training.num_generations,
        num_iterations=training.num_iterations,
        beta=training.beta,
        epsilon=training.epsilon,
        epsilon_high=training.epsilon_high or None,
        mask_truncated_completions=training.mask_truncated_completions,
        reward_weights=[one.weight for one in rewards],
    )
    rounds = -(-job.steps // training.num_iterations)
    asked = prompt_set(prompts, visits=rounds * (training.batch // training.num_generations), job=job)
    trainer = sampling_trainer(trainer_class, job, training)(
        model=model,
        reward_funcs=reward_functions(data, rewards),
        args=config,
        train_dataset=asked,
        processing_class=listener_of(tokenizer),
        peft_config=new_adapter,
    )
    keep_reference(trainer.model)
    return train_sampled(trainer, job, visited(asked["row"], training))


def train_sampled(trainer: Any, job: Job, rows: Sequence[Sequence[int]]) -> Trained:  # noqa: ANN401 - TRL has no types
    """Run a trainer that samples, whose tokens are known only when it has.

    Args:
        trainer: TRL's trainer.
        job: Settings and place.
        rows: Numbers of the rows that each answer of the training is to, from 1, step by step.

    Raises:
        MachineError: The loss is no number, the process was asked to end, or the device's memory does not do.
    """
    trained = run(trainer, job, tokens=0, rows=rows)
    return replace(trained, tokens=int(trainer.state.num_input_tokens_seen))


def aligned(job: Job, iterations: int) -> Job:
    """The same job with checkpoints only where a new batch of answers begins."""
    steps = -(-job.checkpoint_steps // iterations) * iterations
    return replace(job, checkpoint_steps=steps, round_steps=iterations)


def visited(rows: Sequence[int], training: RatedTraining) -> list[tuple[int]]:
    """The row that each answer is to, from 1, step by step: every round of answers is learnt from several times."""
    each = training.batch // training.num_generations
    rounds = [rows[start : start + each] for start in range(0, len(rows), each)]
    return [
        (row + 1,)
        for one in rounds
        for _ in range(training.num_iterations)
        for row in one
        for _ in range(training.num_generations)
    ]


def sampling(training: SampledTraining) -> dict[str, Any]:
    """How answers are sampled, in TRL's words; dropout is off, since answers would be sampled through it."""
    return {
        "max_completion_length": training.max_completion_length,
        "temperature": training.temperature,
        "top_p": training.top_p,
        "top_k": training.top_k,
        "min_p": training.min_p or None,
        "repetition_penalty": training.repetition_penalty,
        "shuffle_dataset": False,
        "disable_dropout": True,
    }


def prompt_set(prompts: Sequence[Prompt], *, visits: int, job: Job) -> Dataset:
    """Prompts in the order of training, each with the number of its row."""
    order = visit_order(len(prompts), visits=visits, seed=job.training.seed)
    columns = {"prompt": [one.asked for one in prompts], "row": [one.row for one in prompts]}
    return Dataset.from_dict(columns).select(order)


def listener_of(tokenizer: Any) -> Any:  # noqa: ANN401 - transformers has no types
    """The tokenizer for the trainer; what a base says on how to take answers apart is a program, and is left out."""
    reader = reader_of(tokenizer)
    for name in ("response_template", "response_schema"):
        if getattr(reader, name, None) is not None:
            setattr(reader, name, None)
    return reader


def reward_functions(data: RatedRows, rewards: Sequence[Reward]) -> list[Callable[..., list[float]]]:
    """The rewards as functions that TRL calls."""
    return [_function(data, one) for one in rewards]


def _function(data: RatedRows, reward: Reward) -> Callable[..., list[float]]:
    def rate(*, completions: Sequence[Any], row: Sequence[int], **_: object) -> list[float]:
        texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
        return reward.scorer.rate(data.answered(row, texts))

    rate.__name__ = reward.label  # TRL's name of its figures
    return rate
