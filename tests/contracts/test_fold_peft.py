"""What we fold is what PEFT means: its own merge, made in float64 and rounded once, gives the same elements."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from builder.weights.adapters import read_adapter
from builder.weights.effect import Changed
from builder.weights.folder import read_model
from builder.weights.layout import rewrite_model, write_new_model
from builder.weights.rounding import round_once
from builder.weights.site import Site
from builder.weights.stream import Scratch
from registry.provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

NOTHING = Provenance(kind="fold", method="lora")
LLAMA = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"r": 4, "lora_alpha": 6, "target_modules": LLAMA}),
    "rank-stabilised": ("llama", {"r": 5, "lora_alpha": 3, "use_rslora": True, "target_modules": LLAMA}),
    "rank pattern": ("llama", {"r": 4, "target_modules": LLAMA, "rank_pattern": {"q_proj": 2, "1.mlp.gate_proj": 7}}),
    "alpha pattern": (
        "llama",
        {"r": 4, "target_modules": LLAMA, "alpha_pattern": {r"layers\.0\..*": 3, "1.self_attn.v_proj": 11}},
    ),
    "both patterns": (
        "llama",
        {
            "r": 4,
            "use_rslora": True,
            "target_modules": LLAMA,
            "rank_pattern": {"^model.layers.0.self_attn.q_proj": 3},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 9},
        },
    ),
    "one layer": ("llama", {"r": 4, "target_modules": LLAMA, "layers_to_transform": [1]}),
    "untied head": ("llama", {"r": 4, "target_modules": ["lm_head", "k_proj"]}),
    "untied embedding": ("llama", {"r": 4, "target_modules": ["embed_tokens", "k_proj"]}),
    "all linear": ("llama", {"r": 4, "target_modules": "all-linear"}),
    "conv1d": ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}),
    "conv1d, flag not set": ("gpt2", {"r": 4, "target_modules": ["c_attn", "attn.c_proj"]}),
}


def make_adapter(model: torch.nn.Module, folder: Path, settings: Mapping[str, Any], seed: int) -> None:
    """Write a PEFT folder whose factors are all random: PEFT's own start would add nothing."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns about the flag that one case leaves unset
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, LoraConfig(**settings))
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        wrapped.save_pretrained(folder, save_embedding_layers=False)


def merged_in_float64(base: Path, adapters: Mapping[Path, float]) -> dict[str, torch.Tensor]:
    """The merge that PEFT defines, base and factors in float64."""
    from peft import PeftModel  # noqa: PLC0415

    total: dict[str, torch.Tensor] = {}
    for adapter, weight in adapters.items():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
        wrapped.to(torch.float64)
        after = wrapped.merge_and_unload().state_dict()
        for name, tensor in before.items():
            total[name] = total.get(name, tensor) + weight * (after[name] - tensor)
    return total


def folded(base: Path, out: Path, adapters: Mapping[Path, float]) -> dict[str, torch.Tensor]:
    model = read_model(base)
    effects: dict[str, Any] = {}
    for adapter, weight in adapters.items():
        for name, applied in Site.of(read_adapter(adapter), model).effects().items():
            effects.setdefault(name, []).append(replace(applied, scale=weight))
    changed = {name: Changed(base=model.tensors[name], effects=tuple(some)) for name, some in effects.items()}
    out.mkdir()
    rewrite_model(out, model=model, changed=changed, provenance=NOTHING)
    return dict(AutoModelForCausalLM.from_pretrained(out, dtype="auto").state_dict())


def assert_equal(found: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == reference.keys()
    for name, values in found.items():
        expected = torch.empty(values.numel(), dtype=values.dtype)
        round_once(reference[name].clone().reshape(-1), expected, Scratch())
        assert torch.equal(values.reshape(-1), expected), name


@pytest.fixture
def base(request: pytest.FixtureRequest, tmp_path: Path, make_model: Callable[..., Path]) -> Path:
    """A tiny model in our own layout, in bfloat16."""
    family = request.param
    source = make_model(family, dtype="bfloat16", tied=family == "gpt2")
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    folder = tmp_path / "base"
    folder.mkdir()
    write_new_model(
        folder, tensors=model.state_dict(), files={"config.json": source / "config.json"}, provenance=NOTHING
    )
    return folder


@pytest.mark.parametrize(("base", "settings"), CASES.values(), ids=CASES, indirect=["base"])
def test_every_element_is_that_of_peft_rounded_once(base: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    make_adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", settings, seed=1)
    weights = {tmp_path / "adapter": 1.0}
    assert_equal(folded(base, tmp_path / "out", weights), merged_in_float64(base, weights))


@pytest.mark.parametrize("base", ["llama", "gpt2"], indirect=True)
def test_several_adapters_are_summed_before_the_one_rounding(base: Path, tmp_path: Path) -> None:
    gpt2 = "transformer" in next(iter(read_model(base).tensors))
    targets = [["c_attn"], ["c_attn", "c_fc"]] if gpt2 else [["q_proj"], ["q_proj", "up_proj"]]
    weights = {tmp_path / "first": 0.7, tmp_path / "second": -1.3}
    for seed, (folder, names) in enumerate(zip(weights, targets, strict=True)):
        settings = {"r": 4, "target_modules": names, "fan_in_fan_out": gpt2}
        make_adapter(AutoModelForCausalLM.from_pretrained(base), folder, settings, seed)
    assert_equal(folded(base, tmp_path / "out", weights), merged_in_float64(base, weights))
