"""LoRA with all its switches: what we fold is PEFT's own merge in float64, rounded once, in every element."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, MontecloraConfig, VeloraConfig

from tests.peft_order import wide_floats
from tests.peft_reference import FAMILIES, Bench, make_adapter

if TYPE_CHECKING:
    from pathlib import Path

LLAMA = ["q_proj", "k_proj", "o_proj", "down_proj"]
GPT2 = ["c_attn", "c_fc", "c_proj"]  # the attention's c_proj is square
BLOCKS = partial(BdLoraConfig, target_modules_bd_a=["o_proj", "down_proj"], target_modules_bd_b=["q_proj", "k_proj"])

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dora": ("llama", {"use_dora": True, "target_modules": LLAMA}),
    "dora, rank-stabilised": ("llama", {"use_dora": True, "use_rslora": True, "r": 5, "target_modules": LLAMA}),
    "dora, patterns": (
        "llama",
        {"use_dora": True, "target_modules": LLAMA, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"1.mlp.*": 3}},
    ),
    "dora, embedding": ("llama", {"use_dora": True, "target_modules": ["embed_tokens", "lm_head"]}),
    "dora, conv1d": ("gpt2", {"use_dora": True, "target_modules": GPT2}),
    "dora, conv1d and embedding": ("gpt2", {"use_dora": True, "target_modules": ["wte", "wpe", *GPT2]}),
    "lora_bias": ("biased", {"lora_bias": True, "target_modules": LLAMA}),
    "lora_bias, rank-stabilised": ("biased", {"lora_bias": True, "use_rslora": True, "target_modules": LLAMA}),
    "lora_bias, conv1d": ("gpt2", {"lora_bias": True, "target_modules": GPT2}),
    "bias all": ("biased", {"bias": "all", "target_modules": LLAMA}),
    "bias all, conv1d": ("gpt2", {"bias": "all", "target_modules": ["c_attn"]}),
    "bias all and a module to save": ("gpt2", {"bias": "all", "target_modules": GPT2, "modules_to_save": ["ln_f"]}),
    "bias lora_only": ("biased", {"bias": "lora_only", "target_modules": LLAMA}),
    "bias lora_only, conv1d": ("gpt2", {"bias": "lora_only", "target_modules": GPT2}),
    "dora and bias": ("biased", {"use_dora": True, "bias": "lora_only", "target_modules": LLAMA}),
    "bd-lora": ("llama", {"use_bdlora": BLOCKS(nblocks=2), "target_modules": LLAMA}),
    "bd-lora, four blocks, plain ones too": (
        "llama",
        {"use_bdlora": BLOCKS(nblocks=4, match_strict=False), "target_modules": [*LLAMA, "gate_proj"]},
    ),
    "monte carlo": ("llama", {"monteclora_config": MontecloraConfig(), "target_modules": LLAMA}),
    "velora": ("llama", {"velora_config": VeloraConfig(num_groups=4), "target_modules": LLAMA}),
    "qa-lora, which needs GPTQ": ("llama", {"use_qalora": True, "qalora_group_size": 4, "target_modules": LLAMA}),
    "orthogonal": ("llama", {"init_lora_weights": "orthogonal", "target_modules": LLAMA}),
    "parameters of modules": (
        "llama",
        {"target_modules": [], "target_parameters": ["q_proj.weight", "embed_tokens.weight", "0.mlp.up_proj.weight"]},
    ),
    "a parameter of conv1d": (
        "gpt2",
        {"target_modules": [], "target_parameters": ["c_attn.weight", "attn.c_proj.weight", "c_fc.weight"]},
    ),
    "parameters and modules": (
        "llama",
        {
            "target_modules": ["k_proj"],
            "target_parameters": ["q_proj.weight"],
            "rank_pattern": {r".*\.weight": 3},
            "alpha_pattern": {"self_attn.q_proj.weight": 5},
        },
    ),
}


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    return {family: Bench.new(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def config(**settings: object) -> partial[LoraConfig]:
    return partial(LoraConfig, **{"r": 4, "lora_alpha": 6} | settings)


@pytest.mark.parametrize(("family", "settings"), CASES.values(), ids=CASES)
def test_every_element_is_that_of_peft_rounded_once(
    benches: dict[str, Bench], family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    bench = benches[family].at(tmp_path)
    bench.assert_equal((make_adapter(bench, tmp_path / "adapter", config(**settings)), 1.0))


def test_mica_is_lora_with_another_start(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)
    settings = config(init_lora_weights="mica", target_modules=[*LLAMA, "embed_tokens"])
    folder = make_adapter(bench, tmp_path / "adapter", settings)
    with wide_floats("peft.tuners.lora.layer"):  # PEFT makes its start anew when it loads, and refuses float64
        reference = bench.merged((folder, 1.0))
    bench.assert_equal((folder, 1.0), reference=reference)


@pytest.mark.parametrize(
    ("family", "targets"), [("llama", ["q_proj", "embed_tokens"]), ("gpt2", ["c_attn", "wte"])], ids=["llama", "gpt2"]
)
@pytest.mark.parametrize("kinds", [(True, True), (False, True), (True, False), (True, False, True)], ids=str)
def test_adapters_in_an_order_are_those_of_peft_in_that_order(
    benches: dict[str, Bench], family: str, targets: list[str], kinds: tuple[bool, ...], tmp_path: Path
) -> None:
    bench = benches[family].at(tmp_path)
    folders = [
        make_adapter(bench, tmp_path / str(seed), config(target_modules=targets, use_dora=dora), seed=seed)
        for seed, dora in enumerate(kinds)
    ]
    bench.assert_equal(*((folder, 1.0) for folder in folders), reference=bench.stacked(*folders))


def test_half_of_dora_is_half_of_its_change(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)
    settings = config(use_dora=True, target_modules=["q_proj", "embed_tokens"])
    bench.assert_equal((make_adapter(bench, tmp_path / "adapter", settings), 0.5))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_no_block_size_changes_a_byte(benches: dict[str, Bench], family: str, tmp_path: Path) -> None:
    bench = benches[family].at(tmp_path)
    targets = ["q_proj", "down_proj", "embed_tokens"] if family == "llama" else [*GPT2, "wte"]
    folder = make_adapter(bench, tmp_path / "adapter", config(use_dora=True, target_modules=targets))
    whole = bench.folded((folder, 1.0), (folder, 0.5), block_bytes=1 << 20)
    for size in (1, 100, 1000):
        pieces = bench.folded((folder, 1.0), (folder, 0.5), block_bytes=size)
        assert all(torch.equal(pieces[name], values) for name, values in whole.items())


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
@pytest.mark.parametrize("stabilised", [False, True])
def test_an_adapter_converted_from_a_start_that_moved_the_base_folds_into_the_base_as_it_was(
    benches: dict[str, Bench], start: str, tmp_path: Path, *, stabilised: bool
) -> None:
    bench = benches["llama"].at(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        settings = config(init_lora_weights=start, use_rslora=stabilised, target_modules=LLAMA)()
        wrapped = get_peft_model(copy.deepcopy(bench.model), settings)
        wrapped.peft_config["default"].init_lora_weights = True
        wrapped.save_pretrained(tmp_path / "start")
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    wrapped.save_pretrained(tmp_path / "trained", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    bench.assert_equal((tmp_path / "trained", 1.0))
    # And it is what was trained: the moved base with its factors, which is another way round to the same weights.
    trained = wrapped.merge_and_unload().state_dict()
    for name, values in bench.merged((tmp_path / "trained", 1.0)).items():
        assert torch.allclose(values.float(), trained[name], atol=1e-4), name


def test_factors_in_bfloat16_are_taken_as_they_are(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)
    folder = make_adapter(
        bench, tmp_path / "adapter", config(use_dora=True, target_modules=LLAMA), edit=lambda model: model.bfloat16()
    )
    bench.assert_equal((folder, 1.0))
