"""Adapters of more structure than LoRA: what we fold is PEFT's own merge in float64, rounded once, in every element."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    FourierFTConfig,
    GloraConfig,
    GraloraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    MissConfig,
    PveraConfig,
    VeraConfig,
)

from tests.peft_reference import FAMILIES, Bench, make_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftModel

LLAMA = ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]
GPT2 = ["c_attn", "c_fc", "c_proj"]
HEAD = ["lm_head", "v_proj"]

CASES: dict[str, tuple[str, partial[Any]]] = {
    "adalora": ("llama", partial(AdaLoraConfig, init_r=3, lora_alpha=7, total_step=9, target_modules=LLAMA)),
    "adalora, what it ignores": (
        "llama",
        partial(
            AdaLoraConfig,
            init_r=3,
            r=5,
            total_step=9,
            use_rslora=True,
            alpha_pattern={"q_proj": 3},
            lora_dropout=0.1,
            target_modules=HEAD,
        ),
    ),
    "adalora, alpha 0": ("llama", partial(AdaLoraConfig, init_r=3, lora_alpha=0, total_step=9, target_modules=LLAMA)),
    "adalora, conv1d": ("gpt2", partial(AdaLoraConfig, init_r=3, total_step=9, target_modules=GPT2)),
    "adalora, biases": (
        "biased",
        partial(AdaLoraConfig, init_r=3, total_step=9, target_modules=LLAMA, bias="lora_only"),
    ),
    "loha": ("llama", partial(LoHaConfig, r=3, alpha=5, target_modules=LLAMA)),
    "loha, patterns": (
        "llama",
        partial(
            LoHaConfig,
            r=3,
            target_modules=[*LLAMA, "lm_head"],
            rank_pattern={"1.self_attn.q_proj": 5, "gate_proj": 1},
            alpha_pattern={r"layers\.0\..*": 3},
            use_effective_conv2d=True,
            rank_dropout=0.2,
            module_dropout=0.1,
        ),
    ),
    "lokr, whole": ("llama", partial(LoKrConfig, r=8, alpha=5, target_modules=LLAMA)),
    "lokr, right factored": ("llama", partial(LoKrConfig, r=1, alpha=5, target_modules=[*LLAMA, "lm_head"])),
    "lokr, both factored": (
        "llama",
        partial(
            LoKrConfig, r=1, decompose_both=True, decompose_factor=4, target_modules=LLAMA, rank_dropout_scale=True
        ),
    ),
    "lokr, patterns": (
        "llama",
        partial(
            LoKrConfig,
            r=1,
            decompose_factor=2,
            target_modules=LLAMA,
            rank_pattern={"q_proj": 3},
            alpha_pattern={"model.layers.1.mlp.gate_proj": 2},
            init_weights="lycoris",
        ),
    ),
    "gralora": ("llama", partial(GraloraConfig, r=4, alpha=5, target_modules=LLAMA)),
    "gralora, blocks of four and hybrid": (
        "llama",
        partial(
            GraloraConfig,
            r=8,
            hybrid_r=3,
            alpha=5,
            gralora_k=4,
            gralora_dropout=0.1,
            target_modules=[*LLAMA, "lm_head"],
        ),
    ),
    "gralora, one block": ("llama", partial(GraloraConfig, r=3, gralora_k=1, target_modules=LLAMA)),
    "gralora, conv1d": ("gpt2", partial(GraloraConfig, r=4, hybrid_r=2, target_modules=GPT2, bias="all")),
    "vera": ("llama", partial(VeraConfig, r=5, target_modules=LLAMA)),
    "vera, conv1d": ("gpt2", partial(VeraConfig, r=5, target_modules=GPT2)),
    "vera, biases": ("biased", partial(VeraConfig, r=5, target_modules=LLAMA, bias="vera_only")),
    "pvera": ("llama", partial(PveraConfig, r=5, target_modules=LLAMA, sample_at_inference=True, generator_seed=4)),
    "pvera, conv1d": ("gpt2", partial(PveraConfig, r=5, target_modules=GPT2)),
    "fourierft": ("llama", partial(FourierFTConfig, n_frequency=50, scaling=40.0, target_modules=LLAMA)),
    "fourierft, patterns": (
        "llama",
        partial(
            FourierFTConfig,
            n_frequency=9,
            random_loc_seed=-4,
            n_frequency_pattern={"q_proj": 256, "gate_proj": 1},
            target_modules=LLAMA,
        ),
    ),
    "fourierft, conv1d": ("gpt2", partial(FourierFTConfig, n_frequency=50, target_modules=GPT2)),
    "miss": ("llama", partial(MissConfig, r=8, target_modules=LLAMA)),
    "miss, a remainder": (
        "biased",
        partial(MissConfig, r=7, init_weights=False, target_modules=LLAMA, bias="MiSS_only"),
    ),
    "miss, mini": ("llama", partial(MissConfig, r=5, mini_r=4, init_weights="mini", target_modules=LLAMA)),
    "miss, bat": ("llama", partial(MissConfig, r=4, init_weights="bat", target_modules=LLAMA)),
    "ia3": ("llama", partial(IA3Config, target_modules=LLAMA, feedforward_modules=["down_proj"])),
    "ia3, biases": ("biased", partial(IA3Config, target_modules=LLAMA, feedforward_modules=["down_proj"])),
    "ia3, conv1d": ("gpt2", partial(IA3Config, target_modules=GPT2, feedforward_modules=["c_proj"])),
    "glora": ("llama", partial(GloraConfig, r=3, target_modules=LLAMA)),
    "glora, biases": ("biased", partial(GloraConfig, r=3, target_modules=LLAMA)),
    "glora, vectors": (
        "biased",
        partial(GloraConfig, config_A_B="vector", config_C="vector", config_D_E="vector", target_modules=LLAMA),
    ),
    "glora, constants": ("biased", partial(GloraConfig, config_A_B="constant", config_C="none", target_modules=LLAMA)),
    "glora, biases only": (
        "biased",
        partial(GloraConfig, r=3, config_A_B="none", config_D_E="none", target_modules=LLAMA),
    ),
    "glora, weights only": (
        "biased",
        partial(GloraConfig, r=3, config_C="none", config_D_E="none", target_modules=LLAMA),
    ),
}
DRAWN: dict[str, tuple[str, partial[Any]]] = {
    "vera": (
        "llama",
        partial(VeraConfig, r=5, target_modules=LLAMA, save_projection=False, projection_prng_key=9),
    ),
    "vera, conv1d": ("gpt2", partial(VeraConfig, r=5, target_modules=GPT2, save_projection=False)),
    "pvera": ("llama", partial(PveraConfig, r=5, target_modules=LLAMA, save_projection=False)),
}

SUMS = [
    "adalora",
    "loha, patterns",
    "lokr, right factored",
    "gralora",
    "vera",
    "pvera",
    "fourierft",
    "miss",
]
NO_SUMS = ["miss, bat", "ia3, biases", "glora, biases"]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """One base of each family."""
    return {family: Bench.new(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.mark.parametrize("case", CASES)
def test_every_element_is_that_of_peft_rounded_once(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    bench.assert_equal((make_adapter(bench, tmp_path / "adapter", config), 1.0))


@pytest.mark.parametrize("case", SUMS)
def test_deltas_of_several_adapters_are_summed(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)
    one = make_adapter(bench, tmp_path / "one", CASES[case][1], seed=1)
    other = make_adapter(bench, tmp_path / "other", CASES[case][1], seed=2)
    third = make_adapter(bench, tmp_path / "third", CASES["loha"][1], seed=3)
    assert all(applied.effect.additive for applied in bench.effects(one).values())
    bench.assert_equal((one, 0.7), (other, -1.3), (third, 0.25))


@pytest.mark.parametrize("case", NO_SUMS)
def test_a_weight_goes_part_of_the_way_from_the_base(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    adapter = make_adapter(bench, tmp_path / "adapter", config)
    assert not any(applied.effect.additive for applied in bench.effects(adapter).values())
    bench.assert_equal((adapter, 0.3))


@pytest.mark.parametrize("case", NO_SUMS)
def test_several_act_in_order_as_in_one_model_of_peft(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    one = make_adapter(bench, tmp_path / "one", config, seed=1)
    other = make_adapter(bench, tmp_path / "other", config, seed=2)
    bench.assert_equal((one, 1.0), (other, 1.0), reference=bench.stacked(one, other))


def test_adalora_is_folded_with_the_ranks_that_training_left(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)

    def prune(model: PeftModel) -> None:
        stem = "model.layers.{}.self_attn.{}.lora_E.default"
        masks = {stem.format(0, "q_proj"): [True, False, True, False], stem.format(1, "q_proj"): [False] * 4}
        masks[stem.format(0, "k_proj")] = [True] * 4
        model.peft_config["default"].rank_pattern = masks
        with torch.no_grad():
            for name, mask in masks.items():
                model.get_parameter(f"base_model.model.{name}")[~torch.tensor(mask)] = 0

    config = partial(AdaLoraConfig, init_r=4, total_step=9, target_modules=["q_proj", "k_proj"])
    adapter = make_adapter(bench, tmp_path / "adapter", config, edit=prune)
    names = {
        f"model.layers.{layer}.self_attn.{name}.weight" for layer, name in ((0, "q_proj"), (0, "k_proj"), (1, "k_proj"))
    }
    assert bench.effects(adapter).keys() == names
    bench.assert_equal((adapter, 1.0))


@pytest.mark.parametrize(
    "case", ["lokr, both factored", "gralora", "fourierft", "miss, a remainder", "miss, bat", "glora, biases"]
)
def test_the_bytes_do_not_depend_on_the_size_of_blocks(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    adapter = make_adapter(bench, tmp_path / "adapter", config)
    small, odd, whole = (bench.folded((adapter, 1.0), block_bytes=size) for size in (1, 100, 1 << 20))
    assert all(torch.equal(small[name], values) and torch.equal(odd[name], values) for name, values in whole.items())


@pytest.mark.parametrize("case", DRAWN)
def test_projections_are_drawn_again_for_a_base_in_float32(case: str, tmp_path: Path) -> None:
    family, config = DRAWN[case]
    bench = Bench.new(family, tmp_path, dtype=torch.float32)
    bench.assert_equal((make_adapter(bench, tmp_path / "adapter", config), 1.0))


@pytest.mark.parametrize(
    ("case", "error"), [("loha", TypeError), ("lokr, whole", TypeError), ("miss", TypeError), ("glora", ValueError)]
)
def test_peft_itself_has_none_for_conv1d(
    case: str, error: type[Exception], benches: dict[str, Bench], tmp_path: Path
) -> None:
    config = partial(CASES[case][1].func, target_modules=GPT2)
    with pytest.raises(error):
        make_adapter(benches["gpt2"], tmp_path / "adapter", config)
