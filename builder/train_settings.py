"""How the training kinds train: every key's meaning, bounds and default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from builder.compound import Either
from builder.shapes import Number
from builder.tables import Key, Rules

__all__ = ["DpoTraining", "PretrainTraining", "SftTraining", "Training"]


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
class SftTraining(Training):
    """Supervised fine-tuning."""

    learning_rate: Annotated[float, Key("Highest learning rate."), Number(above=0, maximum=10)] = 2e-4
    packing: Annotated[bool, Key("Put several rows into one sequence.")] = False
    loss_on: Annotated[
        Literal["assistant", "all"], Key("Tokens that are learnt: the assistant's, or all; text rows need `all`.")
    ] = "assistant"


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoTraining(Training):
    """Direct preference optimisation."""

    learning_rate: Annotated[float, Key("Highest learning rate."), Number(above=0, maximum=10)] = 5e-5
    beta: Annotated[float, Key("How hard the model is held to its reference."), Number(above=0, maximum=1000)] = 0.1
    loss: Annotated[Literal["sigmoid", "ipo", "hinge"], Key("Loss on a pair of answers.")] = "sigmoid"
    label_smoothing: Annotated[
        float, Key("Share of pairs that are taken to be labelled the wrong way round."), Number(minimum=0, below=0.5)
    ] = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainTraining(Training):
    """Training from nothing; texts are packed end to end."""

    # The network's own default context: a sequence is never longer than that.
    max_length: Annotated[
        int, Key("Length of a sequence, in tokens; at most `context`."), Number(minimum=8, maximum=2**24)
    ] = 512

    learning_rate: Annotated[float, Key("Highest learning rate."), Number(above=0, maximum=10)] = 1e-3
