"""Bases in more than one layout on disk, compared by what transformers loads: tied heads, and experts of a mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from builder.weights.layout import write_new_model
from registry.provenance import Provenance
from tests.peft_reference import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["MODELS", "Layout", "LoadedBench"]

Layout: TypeAlias = Literal["one by one", "stacked"]
"""How experts lie on disk: as transformers saves them, or as its module tree has them."""

_SIZES = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
_SIZES |= {"num_hidden_layers": 1, "max_position_embeddings": 32, "tie_word_embeddings": False}
_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2}
_DEEPSEEK = {"moe_intermediate_size": 12, "first_k_dense_replace": 1, "n_routed_experts": 4, "num_experts_per_tok": 2}
_DEEPSEEK |= {"n_group": 2, "topk_group": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4}
_DEEPSEEK |= {"qk_nope_head_dim": 4, "v_head_dim": 8, "num_hidden_layers": 2, "intermediate_size": 24}
_GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 40}

MODELS: Mapping[str, Callable[[], torch.nn.Module]] = {
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES | {"tie_word_embeddings": True}, intermediate_size=24)),
    "untied": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES, intermediate_size=24)),
    "tied gpt2": lambda: GPT2LMHeadModel(GPT2Config(**_GPT2, bos_token_id=1, eos_token_id=1)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**_SIZES, intermediate_size=12, num_local_experts=3)),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**_SIZES, **_EXPERTS, moe_intermediate_size=12)),
    "olmoe": lambda: OlmoeForCausalLM(OlmoeConfig(**_SIZES, **_EXPERTS, intermediate_size=12)),
    "deepseek-v3": lambda: DeepseekV3ForCausalLM(DeepseekV3Config(**_SIZES | _DEEPSEEK)),
    # As in the real one, the matrices of down_proj are square, so that their shape does not tell which way they lie.
    "gpt-oss": lambda: GptOssForCausalLM(
        GptOssConfig(**_SIZES, intermediate_size=16, num_local_experts=3, num_experts_per_tok=2, head_dim=4)
    ),
}
"""Name -> a new model."""


class LoadedBench(Bench):
    """A base and a folder to work in, whose results transformers loads."""

    @classmethod
    def of(cls, name: str, folder: Path, layout: Layout = "one by one") -> LoadedBench:
        """A base with random weights in bfloat16."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = MODELS[name]()
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
                parameter.data = parameter.data.bfloat16().float()
        saved, base = folder / "saved", folder / "base"
        model.bfloat16().save_pretrained(saved)
        base.mkdir()
        tensors = load_file(saved / "model.safetensors") if layout == "one by one" else model.state_dict()
        files = {"config.json": saved / "config.json"}
        write_new_model(base, tensors=tensors, files=files, provenance=Provenance(kind="import", method="model"))
        return cls(model=model.float(), base=base, work=folder)

    def folded(self, *adapters: tuple[Path, float], block_bytes: int = 0) -> dict[str, torch.Tensor]:
        """Every tensor of the model as transformers has it in memory."""
        files = super().folded(*adapters, block_bytes=block_bytes)
        if block_bytes:
            return files
        return dict(AutoModelForCausalLM.from_pretrained(self.work / "out", dtype="auto").state_dict())
