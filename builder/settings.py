"""Settings of new networks, their tokenizers, and of measurements: every key's meaning, bounds and default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from builder.names import Name
from builder.shapes import Number
from builder.tables import Key, Rules

__all__ = ["Metric", "MetricName", "NetworkSettings", "TokenizerSettings"]

MetricName: TypeAlias = Literal[
    "bits_per_byte",
    "loss",
    "preference_accuracy",
    "preference_margin",
    "reward_accuracy",
    "reward_margin",
    "kl",
    "top1_agreement",
    "pair_accuracy",
    "pair_margin",
]


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
