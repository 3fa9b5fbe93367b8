"""An extracted adapter turns one model into the other: in PEFT's own merge, and in our fold."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from builder.manifest import ExtractStage, FoldStage
from builder.stages.extract import extract
from builder.stages.fold import fold
from builder.weighting import ONE
from builder.weights.folder import read_model
from registry.artifact import Artifact
from registry.components import Selector
from tests.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.stage import Context, Outcome


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def tuned(shop: Workshop, source: Path, *leaves: str, dtype: torch.dtype = torch.bfloat16) -> tuple[Path, Path]:
    """A tiny model and one that differs from it in all tensors whose names have one of these parts."""
    generator = torch.Generator().manual_seed(5)
    config = json.loads((source / "config.json").read_text())
    before = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).state_dict()
    after = {
        name: tensor + (0.05 * torch.randn(tensor.shape, generator=generator)).to(dtype)
        if any(leaf in name for leaf in leaves)
        else tensor
        for name, tensor in before.items()
    }
    return shop.model(before, **config), shop.model(after, **config)


def extracted(shop: Workshop, before: Path, after: Path, **settings: object) -> tuple[Path, Outcome]:
    context: Context[ExtractStage] = shop.context(
        ExtractStage(from_="after", against="before", **settings),
        shop.input("from", after, name="after"),
        shop.input("against", before, name="before"),
    )
    outcome = extract(context)
    Artifact.from_folder(context.out, outcome.type, outcome.written).write(context.out)
    return context.out, outcome


def folded(shop: Workshop, base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    context: Context[FoldStage] = shop.context(
        FoldStage(from_="base", adapters={"delta": ONE}),
        shop.input("from", base),
        shop.input("adapter", adapter, name="delta"),
    )
    fold(context)
    return {name: stored.load() for name, stored in read_model(context.out).tensors.items()}


def merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """PEFT's own merge in float64, once it found all that it looks for and had no tensor left."""
    config = peft.PeftConfig.from_pretrained(adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
        wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        result = peft.set_peft_model_state_dict(wrapped, load_file(adapter / "adapter_model.safetensors"))
        assert not result.unexpected_keys
        assert not [key for key in result.missing_keys if "lora_" in key or "modules_to_save" in key]
        peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    return dict(wrapped.to(torch.float64).merge_and_unload().state_dict())


CASES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "llama, matrices": ("llama", ("proj", "embed", "lm_head"), {"energy": 1.0}),
    "llama, norms too": ("llama", ("proj", "norm"), {"energy": 1.0, "rest": "save"}),
    "llama, all of some rank": ("llama", ("proj",), {"rank": 64}),
    "gpt2, everything": ("gpt2", ("",), {"energy": 1.0, "rest": "save"}),
    "gpt2, matrices": ("gpt2", ("c_attn.weight", "c_proj.weight", "wpe"), {"energy": 1.0}),
}


@pytest.mark.parametrize(("family", "leaves", "settings"), CASES.values(), ids=CASES)
def test_at_full_rank_the_tuned_model_comes_back(
    shop: Workshop, make_model: Callable[..., Path], family: str, leaves: tuple[str, ...], settings: dict[str, Any]
) -> None:
    before, after = tuned(shop, make_model(family, dtype="bfloat16"), *leaves)
    adapter, outcome = extracted(shop, before, after, **settings)
    expected = {name: stored.load() for name, stored in read_model(after).tensors.items()}
    # What float32 factors lose, 6e-8 of a change of 0.05, shows in elements of the result that are nearly zero.
    for found in (folded(shop, before, adapter), merged(before, adapter)):
        for name, values in expected.items():
            assert float((found[name].double() - values.double()).abs().max()) < 1e-7, name
    assert outcome.metrics["error"]["value"] < 1e-7


def test_a_low_rank_is_as_near_as_can_be(shop: Workshop, make_model: Callable[..., Path]) -> None:
    before, after = tuned(shop, make_model(), "q_proj", "down_proj", dtype=torch.float32)
    adapter, outcome = extracted(shop, before, after, rank=3)
    old, new = (AutoModelForCausalLM.from_pretrained(one, dtype=torch.float64).state_dict() for one in (before, after))
    found = merged(before, adapter)
    lost = total = 0.0
    for name, tensor in new.items():
        change = tensor - old[name]
        if change.abs().max() > 0:
            values = torch.linalg.svdvals(change)
            lost, total = lost + float(values[3:].norm()) ** 2, total + float(values.norm()) ** 2
            assert float((found[name] - tensor).norm()) == pytest.approx(float(values[3:].norm()), rel=1e-6)
    assert outcome.metrics["error"]["value"] == pytest.approx((lost / total) ** 0.5, rel=1e-6)
    assert {name for name in outcome.metrics if name.startswith("error-")} == {
        "error-attention-query",
        "error-greatest",
        "error-mlp-down",
    }


def test_targets_leave_the_rest_alone(shop: Workshop, make_model: Callable[..., Path]) -> None:
    before, after = tuned(shop, make_model(dtype="bfloat16"), "proj", "norm")
    targets = Selector.parse({"components": ["attention"], "layers": 1, "exclude": "attention.value"})
    adapter, outcome = extracted(shop, before, after, energy=1.0, targets=targets)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["target_modules"] == [f"model.layers.1.self_attn.{name}_proj" for name in ("k", "o", "q")]
    merged(before, adapter)
    assert outcome.notes[0].startswith("left out by targets, though they differ: 1 of attention.query, 1 of ")
