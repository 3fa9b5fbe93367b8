"""How the kinds train that sample answers while they do: every key's meaning, bounds and default, under TRL's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from builder.shapes import Number
from builder.tables import Key
from builder.train_settings import Training

__all__ = ["DistillTraining", "GrpoTraining", "RatedTraining", "RlooTraining", "SampledTraining"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledTraining(Training):
    """Training on answers that the model itself samples."""

    learning_rate: Annotated[float, Key("Highest learning rate."), Number(above=0, maximum=10)] = 1e-6
    max_length: Annotated[
        int,
        Key("Longest prompt with its answer, in tokens; longer prompts are left out."),
        Number(minimum=8, maximum=2**24),
    ] = 1024
    max_completion_length: Annotated[int, Key("Longest answer, in tokens."), Number(minimum=1, maximum=2**24)] = 512
    temperature: Annotated[float, Key("Temperature of the sampling."), Number(above=0, maximum=100)] = 1.0
    top_p: Annotated[
        float, Key("Sample from the likeliest tokens that together have this probability."), Number(above=0, maximum=1)
    ] = 1.0
    top_k: Annotated[
        int, Key("Sample from this many likeliest tokens; 0: from all."), Number(minimum=0, maximum=2**24)
    ] = 0
    min_p: Annotated[
        float, Key("Leave out tokens less likely than this share of the likeliest."), Number(minimum=0, below=1)
    ] = 0.0
    repetition_penalty: Annotated[
        float, Key("Above 1, tokens that were there become less likely."), Number(above=0, maximum=100)
    ] = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RatedTraining(SampledTraining):
    """Training on sampled answers that are rated."""

    batch: Annotated[
        int, Key("Answers per optimiser step; a multiple of `num_generations`."), Number(minimum=2, maximum=10**6)
    ] = 8
    num_generations: Annotated[
        int, Key("Answers to each prompt, which are compared with each other."), Number(minimum=2, maximum=10**4)
    ] = 8
    num_iterations: Annotated[
        int, Key("Optimiser steps on each batch of answers."), Number(minimum=1, maximum=1000)
    ] = 1
    beta: Annotated[
        float, Key("How hard the model is held to its reference; 0: not at all."), Number(minimum=0, maximum=1000)
    ] = 0.0
    epsilon: Annotated[
        float, Key("How far a token's probability may move before it counts no more."), Number(minimum=0, below=1)
    ] = 0.2
    epsilon_high: Annotated[float, Key("The same, upwards; 0: as `epsilon`."), Number(minimum=0, maximum=1000)] = 0.0
    mask_truncated_completions: Annotated[bool, Key("Take no loss on answers that did not end by themselves.")] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpoTraining(RatedTraining):
    """Group relative policy optimisation, and what was made of it."""

    loss_type: Annotated[
        Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo"],
        Key("How the tokens' losses are put together."),
    ] = "dapo"
    scale_rewards: Annotated[
        Literal["group", "batch", "none"], Key("Divide rewards by their spread in the group, in the batch, or not.")
    ] = "group"
    multi_objective_aggregation: Annotated[
        Literal["sum_then_normalize", "normalize_then_sum"], Key("How several rewards become one.")
    ] = "sum_then_normalize"
    importance_sampling_level: Annotated[
        Literal["token", "sequence"], Key("What is weighed by how its probability moved; `sequence` is GSPO.")
    ] = "token"
    delta: Annotated[
        float, Key("Highest weight of a token whatever its sign; 0: none."), Number(minimum=0, maximum=1000)
    ] = 0.0
    top_entropy_quantile: Annotated[
        float, Key("Learn from this share of the tokens, the least certain ones."), Number(above=0, maximum=1)
    ] = 1.0
    entropy_coef: Annotated[float, Key("Weight of a bonus for uncertainty."), Number(minimum=-100, maximum=100)] = 0.0
    sapo_temperature_neg: Annotated[
        float, Key("Temperature of sapo for answers worse than the others."), Number(above=0, maximum=1000)
    ] = 1.05
    sapo_temperature_pos: Annotated[
        float, Key("Temperature of sapo for answers better than the others."), Number(above=0, maximum=1000)
    ] = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RlooTraining(RatedTraining):
    """REINFORCE with the other answers to a prompt as the baseline."""

    num_generations: Annotated[
        int, Key("Answers to each prompt, which are compared with each other."), Number(minimum=2, maximum=10**4)
    ] = 2
    beta: Annotated[
        float,
        Key("How much of the distance to the reference is taken from the reward."),
        Number(minimum=0, maximum=1000),
    ] = 0.05
    normalize_advantages: Annotated[bool, Key("Bring the advantages of a batch to mean 0 and spread 1.")] = False
    reward_clip_range: Annotated[
        tuple[float, ...], Key("Lowest and highest reward; none written: rewards are not clipped.")
    ] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillTraining(SampledTraining):
    """Distillation from a teacher: on the student's own answers to prompts, or on rows of other formats as they are."""

    beta: Annotated[
        float,
        Key("The divergence: 0 forward KL, 1 reverse KL, between them the generalised Jensen-Shannon divergence."),
        Number(minimum=0, maximum=1),
    ] = 1.0
    temperature: Annotated[
        float, Key("Temperature of both models in the loss, and of the sampling."), Number(above=0, maximum=100)
    ] = 1.0
    loss_on: Annotated[
        Literal["assistant", "all"],
        Key("Of rows that are not prompts, the tokens that are learnt: the assistant's, or all; text rows need `all`."),
    ] = "assistant"
