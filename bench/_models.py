"""Llama-shaped models of any size for the benches: written in a stream, so that none is ever in memory."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.safetensors import TensorSpec

__all__ = ["LLAMA_8B", "SMALL", "Shape", "layers_for", "make_model"]

_BLOCK = 1 << 20  # numbers in the random matrix that is written over and over


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a network; a head of its own unless it is tied."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    words: int
    tied: bool

    def layer(self) -> dict[str, tuple[int, ...]]:
        """The tensors of one layer, by the end of their names."""
        key_value = self.hidden // self.heads * self.kv_heads
        return {
            "input_layernorm": (self.hidden,),
            "mlp.down_proj": (self.hidden, self.inner),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "post_attention_layernorm": (self.hidden,),
            "self_attn.k_proj": (key_value, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.v_proj": (key_value, self.hidden),
        }

    def tensors(self, layers: int) -> dict[str, tuple[int, ...]]:
        """Every tensor of a network of so many layers."""
        shapes = {"model.embed_tokens.weight": (self.words, self.hidden), "model.norm.weight": (self.hidden,)}
        if not self.tied:
            shapes["lm_head.weight"] = (self.words, self.hidden)
        for number in range(layers):
            shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in self.layer().items()}
        return shapes


SMALL = Shape(hidden=2048, inner=5632, heads=16, kv_heads=4, words=32_000, tied=True)
LLAMA_8B = Shape(hidden=4096, inner=14_336, heads=32, kv_heads=8, words=128_256, tied=False)
"""Llama 3 with 32 layers: 8.03 billion weights."""


def make_model(folder: Path, shape: Shape, *, layers: int, seed: int = 0, scale: float = 0.02) -> int:
    """Write a bfloat16 model; returns its size in bytes.

    The weights are the bytes of a small random matrix over and over: their values matter to no one here. Another seed
    makes another model.
    """
    import torch

    from builder.weights.layout import write_contents  # noqa: PLC0415
    from registry.artifact import Artifact  # noqa: PLC0415
    from registry.provenance import Provenance  # noqa: PLC0415
    from registry.safetensors import TensorSpec  # noqa: PLC0415

    noise = (torch.randn(_BLOCK, generator=torch.Generator().manual_seed(seed)) * scale).to(torch.bfloat16)
    data = memoryview(noise.view(torch.uint8).numpy().tobytes())

    @dataclass(frozen=True)
    class Noise:
        spec: TensorSpec

        def blocks(self, _: object) -> Iterator[memoryview]:
            for start in range(0, self.spec.size_bytes, len(data)):
                yield data[: self.spec.size_bytes - start]

    shapes = shape.tensors(layers)
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "max_position_embeddings": 2048,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": shape.tied,
        "vocab_size": shape.words,
    }
    (folder / "config.json").write_text(json.dumps(config))
    contents = {name: Noise(TensorSpec(name=name, dtype="BF16", shape=size)) for name, size in shapes.items()}
    written = write_contents(folder, contents=contents, provenance=Provenance(kind="import", method="model"))
    Artifact.from_folder(folder, "model", written).write(folder)
    return sum(file.size_bytes for file in written)


def layers_for(shape: Shape, size_bytes: int) -> int:
    """How many layers make a bfloat16 model of at least so many bytes."""
    layers = 0
    while 2 * sum(math.prod(size) for size in shape.tensors(layers).values()) < size_bytes:
        layers += 1
    return layers
