"""A fused adapter is one that PEFT loads whole, and whose merge is the sum of the merges that it stands for."""

from __future__ import annotations

import json
import re
import warnings
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from builder.manifest import FuseStage
from builder.stages.fuse import fuse
from builder.weighting import ONE
from builder.weights.layout import write_adapter
from registry.artifact import Artifact
from registry.provenance import Provenance, ProvenanceInput
from tests.workshop import Workshop, weights_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from builder.stage import Outcome

LLAMA = ["q_proj", "v_proj", "down_proj"]
GPT2 = ["c_attn", "c_proj", "c_fc"]


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def base_of(shop: Workshop, source: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A tiny model's artifact."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    return shop.model(model.state_dict(), **json.loads((source / "config.json").read_text()))


def train(shop: Workshop, base: Path, config: peft.PeftConfig, seed: int) -> Path:
    """An adapter's artifact as PEFT saves it, every tensor random: PEFT's own start would add nothing."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(model, config)
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and "ranknum" not in name:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        folder = shop.folder()
        wrapped.save_pretrained(folder, save_embedding_layers=False)
    out, trained_on = shop.folder(), ProvenanceInput(role="from", weights_digest=weights_digest(base))
    write_adapter(
        out,
        tensors=load_file(folder / "adapter_model.safetensors"),
        config=json.loads((folder / "adapter_config.json").read_text()),
        provenance=Provenance(kind="sft", method="peft", inputs=(trained_on,)),
    )
    Artifact.from_folder(out, "adapter").write(out)
    return out


def merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """PEFT's own merge, base and adapter in float64."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
    return dict(wrapped.to(torch.float64).merge_and_unload().state_dict())


def loads_whole(base: Path, adapter: Path) -> None:
    """PEFT finds every tensor that it looks for, and looks for every tensor that is there."""
    config = peft.PeftConfig.from_pretrained(adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    result = peft.set_peft_model_state_dict(model, load_file(adapter / "adapter_model.safetensors"))
    ours = re.compile(r"lora_|modules_to_save|trainable_tokens")
    assert not [key for key in result.missing_keys if ours.search(key)]
    assert not result.unexpected_keys
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)


def fused(shop: Workshop, base: Path, adapters: Mapping[Path, float], **settings: object) -> tuple[Path, Outcome]:
    inputs = [
        shop.input("adapter", path, name=f"a{number}", weight=weight)
        for number, (path, weight) in enumerate(adapters.items())
    ]
    context = shop.context(
        FuseStage(adapters={one.name: ONE for one in inputs}, **settings), shop.input("base", base), *inputs
    )
    outcome = fuse(context)
    artifact = Artifact.from_folder(context.out, outcome.type, outcome.written)
    artifact.write(context.out)
    return context.out, outcome


def distance(found: Mapping[str, torch.Tensor], base: Path, adapters: Mapping[Path, float]) -> float:
    """Largest difference from base plus weighted changes, relative to the largest change."""
    before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).state_dict()
    merges = {path: merged(base, path) for path in adapters}
    worst = largest = 0.0
    for name, tensor in before.items():
        change = sum(weight * (merges[path][name] - tensor) for path, weight in adapters.items())
        worst = max(worst, float((found[name] - tensor - change).abs().max()))
        largest = max(largest, float(torch.as_tensor(change).abs().max()))
    assert largest > 0
    return worst / largest


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_factors_side_by_side_merge_to_the_sum_of_the_merges(
    shop: Workshop, make_model: Callable[..., Path], family: str
) -> None:
    base = base_of(shop, make_model(family, tied=family == "gpt2"))
    gpt2 = family == "gpt2"
    targets = GPT2 if gpt2 else LLAMA
    one = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, fan_in_fan_out=gpt2)
    two = peft.LoraConfig(
        r=2, use_rslora=True, target_modules=[targets[0], targets[2]], fan_in_fan_out=gpt2, rank_pattern={targets[0]: 4}
    )
    weights = {train(shop, base, one, 1): 0.3, train(shop, base, two, 2): -1.7}
    out, outcome = fused(shop, base, weights)
    loads_whole(base, out)
    assert distance(merged(base, out), base, weights) < 1e-7  # of float32's rounding, 6e-8, of each factor
    assert outcome.depends_on == ()
    assert outcome.metrics["error"]["value"] < 6e-8


OTHERS: dict[str, Any] = {
    "adalora": peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, tinit=1, tfinal=1, target_modules=LLAMA),
    "loha": peft.LoHaConfig(r=2, alpha=3, target_modules=LLAMA),
    "lokr": peft.LoKrConfig(r=2, alpha=3, target_modules=LLAMA),
    "vera": peft.VeraConfig(r=4, target_modules=["q_proj", "o_proj"], save_projection=True),
    "dora": peft.LoraConfig(r=2, use_dora=True, target_modules=LLAMA),
    "ia3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "oft": peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
}


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_an_adapter_of_another_type_becomes_plain_lora(
    shop: Workshop, make_model: Callable[..., Path], config: peft.PeftConfig
) -> None:
    base = base_of(shop, make_model())
    adapter = train(shop, base, config, 3)
    out, outcome = fused(shop, base, {adapter: 1.0}, method="linear")
    loads_whole(base, out)
    assert distance(merged(base, out), base, {adapter: 1.0}) < 1e-6
    assert outcome.metrics["error"]["value"] < 6e-8
    assert json.loads((out / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_the_sum_cut_to_a_rank_is_the_nearest_of_that_rank(shop: Workshop, make_model: Callable[..., Path]) -> None:
    base = base_of(shop, make_model())
    lora, dora = (peft.LoraConfig(r=6, use_dora=dora, target_modules=["q_proj"]) for dora in (False, True))
    weights = {train(shop, base, lora, 4): 0.5, train(shop, base, dora, 5): 2.0}
    out, outcome = fused(shop, base, weights, method="linear", rank=3)
    loads_whole(base, out)
    before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).state_dict()
    after, merges = merged(base, out), {path: merged(base, path) for path in weights}
    lost = total = 0.0
    for name in (f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)):
        change = sum(weight * (merges[path][name] - before[name]) for path, weight in weights.items())
        values = torch.linalg.svdvals(torch.as_tensor(change))
        error = float((after[name] - before[name] - change).norm())
        assert error == pytest.approx(float(values[3:].norm()), rel=1e-6)
        lost, total = lost + error**2, total + float(values.norm()) ** 2
    assert outcome.metrics["error"]["value"] == pytest.approx((lost / total) ** 0.5, rel=1e-6)
    assert outcome.metrics["rank"] == {"value": 3.0}
    assert outcome.depends_on == ("device", "versions", "threads")


def test_what_is_no_product_goes_along_where_one_adapter_has_it(
    shop: Workshop, make_model: Callable[..., Path]
) -> None:
    base = base_of(shop, make_model(layers=3))  # over 20 modules, from where on PEFT shortens their names
    saving = peft.LoraConfig(r=2, target_modules=["v_proj", "embed_tokens"], modules_to_save=["model.norm", "lm_head"])
    tokens = peft.LoraConfig(r=2, target_modules="all-linear", exclude_modules=["lm_head"])
    weights = {train(shop, base, saving, 6): 1.0, train(shop, base, tokens, 7): 0.5}
    out, outcome = fused(shop, base, weights)
    loads_whole(base, out)
    assert distance(merged(base, out), base, weights) < 1e-6
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["lm_head", "model.norm"]
    assert ("head", "overridden") in {(one.component, one.change) for one in outcome.components}


def test_rows_of_tokens_and_biases_go_along(shop: Workshop, make_model: Callable[..., Path]) -> None:
    base = base_of(shop, make_model("gpt2", tied=False))
    rows = peft.LoraConfig(
        r=2, target_modules=["c_attn"], trainable_token_indices={"wte": [7, 3]}, fan_in_fan_out=True, bias="lora_only"
    )
    plain = peft.LoraConfig(r=2, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True)
    weights = {train(shop, base, rows, 8): 1.0, train(shop, base, plain, 9): 2.0}
    out, _ = fused(shop, base, weights)
    loads_whole(base, out)
    assert distance(merged(base, out), base, weights) < 1e-6
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["trainable_token_indices"] == {"transformer.wte": [7, 3]}
    assert config["bias"] == "lora_only"
