"""Names on disk and names in the module tree say the same, over what transformers and PEFT really write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from registry.components import Network, Selector
from registry.safetensors import read_header

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2_SIZES = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}

# Components of one layer, with the number of tensors: the expectation is written by hand, not by the table under test.
SPLIT = {"attention.query": 1, "attention.key": 1, "attention.value": 1, "attention.output": 1}
GATED = {"mlp.gate": 1, "mlp.up": 1, "mlp.down": 1}
NORMS = {"norm.attention": 1, "norm.mlp": 1}
LLAMA = {**SPLIT, **GATED, **NORMS}
FOUR_NORMS = {**SPLIT, **GATED, "norm.attention": 2, "norm.mlp": 2}
QK_NORMS = {"attention.norm": 2}
FUSED_BIASED = {
    "attention.fused": 2,
    "attention.output": 2,
    "mlp.up": 2,
    "mlp.down": 2,
    "norm.attention": 2,
    "norm.mlp": 2,
}
BIASED = dict.fromkeys(("attention.query", "attention.key", "attention.value"), 2)
OUTSIDE = {"embedding.token": 1, "norm.final": 1, "head": 1}
TIED = {"embedding.token": 1, "norm.final": 1}

FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, int], dict[str, int]]] = {
    "llama": ("llama", {}, LLAMA, OUTSIDE),
    "llama tied": ("llama", {"tie_word_embeddings": True}, LLAMA, TIED),
    "llama biased": (
        "llama",
        {"attention_bias": True, "mlp_bias": True},
        {**dict.fromkeys((*SPLIT, *GATED), 2), **NORMS},
        OUTSIDE,
    ),
    "mistral": ("mistral", {}, LLAMA, OUTSIDE),
    "qwen2": ("qwen2", {}, {**LLAMA, **BIASED}, OUTSIDE),
    "qwen3": ("qwen3", {"head_dim": 4}, {**LLAMA, **QK_NORMS}, OUTSIDE),
    "gemma": ("gemma", {"head_dim": 4}, LLAMA, TIED),
    "gemma2": ("gemma2", {"head_dim": 4}, FOUR_NORMS, TIED),
    "gemma3": ("gemma3_text", {"head_dim": 4}, {**FOUR_NORMS, **QK_NORMS}, TIED),
    "granite": ("granite", {}, LLAMA, OUTSIDE),
    "smollm3": ("smollm3", {}, LLAMA, TIED),
    "olmo2": ("olmo2", {}, {**LLAMA, **QK_NORMS}, OUTSIDE),
    "phi": (
        "phi",
        {},
        {**BIASED, "attention.output": 2, "mlp.up": 2, "mlp.down": 2, "norm.attention": 2},
        {"embedding.token": 1, "norm.final": 2, "head": 2},
    ),
    "phi3": (
        "phi3",
        {},
        {"attention.fused": 1, "attention.output": 1, "mlp.fused": 1, "mlp.down": 1, **NORMS},
        OUTSIDE,
    ),
    "starcoder2": (
        "starcoder2",
        {},
        {**BIASED, "attention.output": 2, "mlp.up": 2, "mlp.down": 2, "norm.attention": 2, "norm.mlp": 2},
        {"embedding.token": 1, "norm.final": 2},
    ),
    "gpt2": ("gpt2", GPT2_SIZES, FUSED_BIASED, {"embedding.token": 1, "embedding.position": 1, "norm.final": 2}),
    "gpt2 untied": (
        "gpt2",
        {**GPT2_SIZES, "tie_word_embeddings": False},
        FUSED_BIASED,
        {"embedding.token": 1, "embedding.position": 1, "norm.final": 2, "head": 1},
    ),
    "gptj": (
        "gptj",
        {**GPT2_SIZES, "rotary_dim": 4},
        {**SPLIT, "mlp.up": 2, "mlp.down": 2, "norm.attention": 2},
        {"embedding.token": 1, "norm.final": 2, "head": 2},
    ),
    "gpt-neox": ("gpt_neox", {}, FUSED_BIASED, {"embedding.token": 1, "norm.final": 2, "head": 1}),
    "falcon": (
        "falcon",
        {},
        {"attention.fused": 1, "attention.output": 1, "mlp.up": 1, "mlp.down": 1, "norm.attention": 2},
        {"embedding.token": 1, "norm.final": 2},
    ),
}
EXPERT_FAMILIES = {
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "qwen3 moe": ("qwen3_moe", {**EXPERTS, "head_dim": 4}),
    "qwen2 moe": ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 8}),
}


def make(model_type: str, options: dict[str, Any]) -> Any:  # noqa: ANN401 - transformers has no types
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **options}))


def saved(model: Any, folder: Path) -> Network:  # noqa: ANN401
    model.save_pretrained(folder)
    files = sorted(folder.glob("*.safetensors"))
    return Network.from_shapes({name: info.shape for file in files for name, info in read_header(file).tensors.items()})


def counts(network: Network) -> dict[str, int]:
    return {row.component: row.tensors for row in network.count(network.names)}


@pytest.mark.parametrize("family", FAMILIES)
def test_disk_and_module_tree_agree(family: str, tmp_path: Path) -> None:
    model_type, options, layer, outside = FAMILIES[family]
    model = make(model_type, options)
    tree, disk = Network.from_modules(model), saved(model, tmp_path)
    assert tree.unknown == disk.unknown == ()
    assert tree.layers == disk.layers == 2
    assert counts(tree) == counts(disk) == {**{name: 2 * count for name, count in layer.items()}, **outside}
    if model_type != "gpt_neox":  # its head has another name on disk
        assert tree.places == disk.places
        assert tree.shapes == disk.shapes


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt-neox"])
def test_a_bare_trunk_has_the_same_components(family: str) -> None:
    model_type, options, layer, outside = FAMILIES[family]
    model = make(model_type, options)
    trunk = Network.from_modules(model.base_model)
    assert trunk.unknown == ()
    expected = {**{name: 2 * count for name, count in layer.items()}, **outside}
    expected.pop("head", None)
    assert counts(trunk) == expected


@pytest.mark.parametrize("family", EXPERT_FAMILIES)
def test_experts_are_one_component_on_disk_and_in_the_tree(family: str, tmp_path: Path) -> None:
    model = make(*EXPERT_FAMILIES[family])
    tree, disk = Network.from_modules(model), saved(model, tmp_path)
    assert tree.unknown == disk.unknown == ()
    assert tree.components == disk.components
    assert {"router", "mlp.experts"} <= set(tree.components)
    for component in tree.components:
        sizes = [
            sum(torch.Size(network.shapes[name]).numel() for name in network.select(Selector.parse(component)))
            for network in (tree, disk)
        ]
        assert sizes[0] == sizes[1], component


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_adapter_names_have_the_places_of_what_they_adapt(family: str, tmp_path: Path) -> None:
    model_type, options, _, _ = FAMILIES[family]
    model = make(model_type, options)
    plain = Network.from_modules(model)
    selector = Selector.parse({"components": ["attention", "mlp"], "layers": "-1"})
    modules = plain.module_names(selector)
    adapted = get_peft_model(
        model,
        LoraConfig(r=2, target_modules=list(modules), use_dora=True, fan_in_fan_out=model_type == "gpt2"),
    )
    wrapped, disk = Network.from_modules(adapted), saved(adapted, tmp_path)
    assert wrapped.unknown == disk.unknown == ()
    assert counts(disk) == {
        row.component: 3 * row.tensors for row in plain.count([f"{module}.weight" for module in modules])
    }
    assert {place.layer for place in disk.places.values()} == {1}
    assert wrapped.module_names(selector) == modules
    assert {name for name in disk.names if name not in wrapped.names} == set(disk.names)  # other spellings, same places


def test_lora_lands_on_the_selected_modules_and_on_no_other() -> None:
    model = make("llama", {"num_hidden_layers": 12})
    modules = Network.from_modules(model).module_names(Selector.parse({"components": "attention.query", "layers": "1"}))
    assert modules == ("model.layers.1.self_attn.q_proj",)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=list(modules)))
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained == [f"base_model.model.model.layers.1.self_attn.q_proj.lora_{side}.default.weight" for side in "AB"]


def test_masks_that_older_checkpoints_store_are_buffers(tmp_path: Path) -> None:
    names = ["h.0.attn.bias", "h.0.attn.masked_bias", "h.0.attn.c_attn.weight"]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "old.safetensors")
    network = Network.from_tensors(read_header(tmp_path / "old.safetensors").tensors)
    assert counts(network) == {"attention.fused": 1, "buffer": 2}
