"""Settings of the stage kinds: every key's meaning, bounds and default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

from builder.compound import Either
from builder.names import Name
from builder.shapes import Number
from builder.tables import Key, Rules
from registry.selector import Selector

__all__ = [
    "DpoTraining",
    "LoraSettings",
    "Metric",
    "MetricName",
    "NetworkSettings",
    "PretrainTraining",
    "SftTraining",
    "TokenizerSettings",
    "Training",
]

MetricName: TypeAlias = Literal[
    "bits_per_byte",
    "loss",
    "preference_accuracy",
    "preference_margin",
    "reward_accuracy",
    "reward_margin",
    "kl",
    "top1_agreement",
]


def _whole_network() -> Selector:
    return Selector.parse(["attention", "mlp"])


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """A new LoRA adapter."""

    type: Annotated[Literal["lora"], Key("Type of the adapter.")] = "lora"
    rank: Annotated[int, Key("Rank of the two factors."), Number(minimum=1, maximum=4096)] = 16
    alpha: Annotated[
        float, Key("Scale: what the factors give is multiplied by alpha / rank."), Number(above=0, maximum=1e6)
    ] = 32.0
    dropout: Annotated[float, Key("Share of the adapter's inputs that training drops."), Number(minimum=0, below=1)] = (
        0.0
    )
    rslora: Annotated[bool, Key("Scale by alpha / square root of rank instead.")] = False
    targets: Annotated[Selector, Key("Weights that get the adapter; a selector.")] = field(
        default_factory=_whole_network
    )


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


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSettings:
    """A new network."""

    architecture: Annotated[Literal["llama", "gpt2"], Key("Family of the network.")] = "llama"
    layers: Annotated[int, Key("Layers."), Number(minimum=1, maximum=1000)]
    hidden_size: Annotated[int, Key("Width of the residual stream."), Number(minimum=8, maximum=2**17)]
    heads: Annotated[int, Key("Attention heads; a divisor of the width."), Number(minimum=1, maximum=1024)]
    kv_heads: Annotated[
        int, Key("Heads of keys and values; 0 takes as many as `heads`."), Number(minimum=0, maximum=1024)
    ] = 0
    intermediate_size: Annotated[
        int,
        Key("Width of the MLP; 0 takes 4 times the hidden size for gpt2, 8/3 of it, rounded up to 64, for llama."),
        Number(minimum=0, maximum=2**20),
    ] = 0
    context: Annotated[int, Key("Longest sequence that it can read, in tokens."), Number(minimum=8, maximum=2**24)] = (
        512
    )
    tie_embeddings: Annotated[bool, Key("Use the token embedding as the head, too.")] = True
    dtype: Annotated[Literal["float32", "bfloat16"], Key("Type that the weights are stored in.")] = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSettings:
    """A new byte-level BPE tokenizer, made from the stage's data."""

    vocabulary: Annotated[
        int,
        Key("Tokens in all, the 256 bytes and 5 special tokens among them."),
        Number(minimum=261, maximum=2**20),
    ] = 4096


MeasuredOn: TypeAlias = Annotated[Name, Key("What to measure it on.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One measurement; a lone name is its data set."""

    RULES: ClassVar[Rules] = Rules(shorthand="data", named_by="metric")

    metric: Annotated[MetricName, Key("What to measure; may be left out where the label says it.")]
    data: MeasuredOn
    turns: Annotated[
        Literal["assistant", "user", "all", "last"], Key("Whose tokens count, in messages; `last`: the last answer.")
    ] = "assistant"
