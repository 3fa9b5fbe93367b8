"""How the training kinds train: every key's meaning, bounds and default."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the shapes are made from the fields' types
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

from builder.compound import Either
from builder.shapes import Number
from builder.tables import Filled, Key, Lone, Rules

__all__ = [
    "CpoTraining",
    "DpoLoss",
    "DpoTraining",
    "EvaluatedTraining",
    "KtoTraining",
    "OrpoTraining",
    "PretrainTraining",
    "RewardTraining",
    "SftTraining",
    "Training",
]

DpoLoss: TypeAlias = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
LossWeight: TypeAlias = Annotated[float, Number(above=0, maximum=1000)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a stage trains; batch sizes are global, over all devices."""

    RULES: ClassVar[Rules] = Rules(
        either=(Either(groups=(("epochs",), ("steps",)), mend="keep one: `epochs` or `steps` says how long to train"),)
    )

    epochs: Annotated[float, Key("Passes over the data."), Number(above=0, maximum=10_000)] = 1.0
    steps: Annotated[
        int, Key("Optimiser steps; 0 takes as many as the epochs need."), Number(minimum=0, maximum=10**9)
    ] = 0
    batch: Annotated[int, Key("Rows, or packed sequences, per optimiser step."), Number(minimum=1, maximum=10**6)] = 8
    learning_rate: Annotated[float, Key("Highest learning rate."), Number(above=0, maximum=10)] = 1e-4
    schedule: Annotated[
        Literal["constant", "linear", "cosine"], Key("How the learning rate goes on after the warm-up.")
    ] = "cosine"
    warmup: Annotated[float, Key("Share of the steps with a rising learning rate."), Number(minimum=0, maximum=1)] = 0.0
    weight_decay: Annotated[float, Key("Decay of the weights in AdamW."), Number(minimum=0, maximum=10)] = 0.0
    max_gradient_norm: Annotated[float, Key("Gradients are clipped to this norm."), Number(above=0, maximum=1e6)] = 1.0
    max_length: Annotated[int, Key("Longest sequence, in tokens."), Number(minimum=8, maximum=2**24)] = 1024
    seed: Annotated[int, Key("Seed of everything random."), Number(minimum=0, maximum=2**32 - 1)] = 0
    precision: Annotated[
        Literal["float32", "mixed-bfloat16"], Key("Arithmetic of the forward and the backward pass.")
    ] = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedTraining(Training):
    """A training during which the loss on rows that are not learnt can be measured."""

    eval_steps: Annotated[
        int,
        Key("Optimiser steps between two measurements of the loss on `eval`; 0 takes a tenth of all."),
        Number(minimum=0, maximum=10**9),
    ] = 0
    early_stopping: Annotated[
        int,
        Key("Measurements in a row without a new lowest loss after which the training ends; 0: it goes on."),
        Number(minimum=0, maximum=10**6),
    ] = 0
    keep: Annotated[
        Literal["last", "best"], Key("The weights to keep: of the last step, or of the lowest loss on `eval`.")
    ] = "last"


@dataclass(frozen=True, kw_only=True, slots=True)
class SftTraining(EvaluatedTraining):
    """Supervised fine-tuning."""

    learning_rate: Annotated[float, Key("Highest learning rate."), Number(above=0, maximum=10)] = 2e-4
    packing: Annotated[bool, Key("Put several rows into one sequence.")] = False
    loss: Annotated[
        Literal["nll", "dft"],
        Key("`nll`: negative log-likelihood; `dft` weighs each token's by its probability (dynamic fine-tuning)."),
    ] = "nll"
    loss_on: Annotated[
        Literal["assistant", "all"], Key("Tokens that are learnt: the assistant's, or all; text rows need `all`.")
    ] = "assistant"


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoTraining(EvaluatedTraining):
    """Direct preference optimisation."""

    learning_rate: Annotated[float, Key("Highest learning rate."), Number(above=0, maximum=10)] = 5e-5
    beta: Annotated[float, Key("How hard the model is held to its reference."), Number(above=0, maximum=1000)] = 0.1
    loss: Annotated[
        Mapping[DpoLoss, LossWeight],
        Key("Loss on a pair of answers: one by its name, or several, each with its weight in the sum."),
        Filled(),
        Lone(1.0),
    ] = field(default_factory=lambda: {"sigmoid": 1.0})
    label_smoothing: Annotated[
        float,
        Key(
            "Share of pairs that are taken to be labelled the wrong way round; "
            "for sigmoid, robust, exo_pair, aot and aot_unpaired."
        ),
        Number(minimum=0, below=0.5),
    ] = 0.0
    f_divergence_type: Annotated[
        Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"],
        Key("How the distance to the reference is measured; for losses on the difference of two rewards."),
    ] = "reverse_kl"
    f_alpha_divergence_coef: Annotated[float, Key("Alpha of alpha_divergence."), Number(minimum=0, maximum=1)] = 0.5
    discopop_tau: Annotated[float, Key("Temperature of discopop."), Number(above=0, maximum=1000)] = 0.05
    ld_alpha: Annotated[
        float,
        Key("Weight of an answer's tokens beyond the length of the shorter one; 1 weighs all alike."),
        Number(minimum=0, maximum=1),
    ] = 1.0
    use_weighting: Annotated[
        bool, Key("Weigh each pair by how likely the model finds both answers; not for aot and aot_unpaired.")
    ] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class KtoTraining(EvaluatedTraining):
    """Kahneman-Tversky optimisation."""

    learning_rate: Annotated[float, Key("Highest learning rate."), Number(above=0, maximum=10)] = 5e-5
    beta: Annotated[float, Key("How hard the model is held to its reference."), Number(above=0, maximum=1000)] = 0.1
    loss: Annotated[
        Literal["kto", "apo_zero_unpaired"],
        Key("Loss on an answer; `kto` weighs it against how far the model has moved, over the rows worked on at once."),
    ] = "kto"
    desirable_weight: Annotated[float, Key("Weight of the good answers."), Number(minimum=0, maximum=1000)] = 1.0
    undesirable_weight: Annotated[float, Key("Weight of the others."), Number(minimum=0, maximum=1000)] = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OrpoTraining(EvaluatedTraining):
    """Odds ratio preference optimisation."""

    learning_rate: Annotated[float, Key("Highest learning rate."), Number(above=0, maximum=10)] = 5e-5
    beta: Annotated[
        float,
        Key("Weight of the odds ratio beside the likelihood of the better answer."),
        Number(above=0, maximum=1000),
    ] = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class CpoTraining(EvaluatedTraining):
    """Contrastive preference optimisation."""

    learning_rate: Annotated[float, Key("Highest learning rate."), Number(above=0, maximum=10)] = 5e-5
    beta: Annotated[float, Key("Scale of the difference of both answers."), Number(above=0, maximum=1000)] = 0.1
    loss: Annotated[
        Literal["sigmoid", "hinge", "ipo", "simpo"],
        Key("Loss on a pair of answers; `simpo` and `ipo` take the mean over an answer's tokens, the others the sum."),
    ] = "sigmoid"
    label_smoothing: Annotated[
        float,
        Key("Share of pairs that are taken to be labelled the wrong way round; for sigmoid and simpo."),
        Number(minimum=0, below=0.5),
    ] = 0.0
    cpo_alpha: Annotated[
        float | None,
        Key("Weight of the likelihood of the better answer; absent: 1, and 0 for simpo, which has no such part."),
        Number(minimum=0, maximum=1000),
    ] = None
    simpo_gamma: Annotated[
        float, Key("How far the better answer is to be ahead, for simpo."), Number(minimum=0, maximum=1000)
    ] = 0.5
    alpha: Annotated[
        float,
        Key("Shape of the reward in AlphaPO; 0 takes the log-probability itself. For simpo and ipo."),
        Number(minimum=-10, maximum=10),
    ] = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardTraining(EvaluatedTraining):
    """A model that scores answers."""

    center_rewards_coefficient: Annotated[
        float,
        Key("Weight of a term that keeps the scores around zero; 0.01 is usual."),
        Number(minimum=0, maximum=1000),
    ] = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainTraining(EvaluatedTraining):
    """Training from nothing; texts are packed end to end."""

    # The network's own default context: a sequence is never longer than that.
    max_length: Annotated[
        int, Key("Length of a sequence, in tokens; at most `context`."), Number(minimum=8, maximum=2**24)
    ] = 512

    learning_rate: Annotated[float, Key("Highest learning rate."), Number(above=0, maximum=10)] = 1e-3
