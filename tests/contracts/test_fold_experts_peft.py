"""LoRA on experts, one by one on disk or stacked: what we fold is PEFT's own merge in float64, rounded once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from builder.weights.folder import read_model
from tests.peft_loaded import Layout, LoadedBench
from tests.peft_reference import make_adapter

if TYPE_CHECKING:
    from pathlib import Path

EXPERTS = ["mlp.experts.gate_up_proj", "experts.down_proj"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {"target_modules": ["q_proj"], "target_parameters": [*EXPERTS, "gate.weight"]}),
    "mixtral, one parameter": ("mixtral", {"target_modules": [], "target_parameters": ["experts.down_proj"]}),
    "qwen3-moe": ("qwen3-moe", {"target_modules": ["o_proj"], "target_parameters": EXPERTS, "use_rslora": True}),
    "qwen3-moe, patterns": (
        "qwen3-moe",
        {
            "target_modules": [],
            "target_parameters": EXPERTS,
            "rank_pattern": {r".*\.gate_up_proj": 4},
            "alpha_pattern": {"layers.0.mlp.experts.down_proj": 3},
        },
    ),
    "olmoe": ("olmoe", {"target_modules": [], "target_parameters": EXPERTS}),
    "deepseek-v3": ("deepseek-v3", {"target_modules": ["kv_b_proj"], "target_parameters": EXPERTS}),
    "gpt-oss, transposed": (
        "gpt-oss",
        {"target_modules": ["q_proj"], "target_parameters": [*EXPERTS, "experts.gate_up_proj_bias"]},
    ),
    "modules to save": ("mixtral", {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]}),
    "names of transformers 4": ("mixtral", {"target_modules": ["q_proj", "w1", "w2", "w3"]}),
    "names of transformers 4, others": ("qwen3-moe", {"target_modules": ["gate_proj", "up_proj", "down_proj"]}),
}


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Layout], LoadedBench]:
    return {
        (model, layout): LoadedBench.of(model, tmp_path_factory.mktemp("base"), layout)
        for model in sorted({model for model, _ in CASES.values()})
        for layout in get_args(Layout)
    }


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize(("model", "settings"), CASES.values(), ids=CASES)
def test_every_element_is_that_of_peft_rounded_once(
    benches: dict[tuple[str, Layout], LoadedBench],
    model: str,
    settings: dict[str, Any],
    layout: Layout,
    tmp_path: Path,
) -> None:
    bench = benches[model, layout].at(tmp_path)
    bench.assert_equal((make_adapter(bench, tmp_path / "adapter", partial(LoraConfig, r=2, **settings)), 1.0))


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("mixtral", ("block_sparse_moe.experts", "w1", "w3", "w2")),
        ("qwen3-moe", ("mlp.experts", "gate_proj", "up_proj", "down_proj")),
    ],
    ids=["mixtral", "qwen3-moe"],
)
def test_an_adapter_that_names_each_expert_is_what_peft_makes_of_it(
    benches: dict[tuple[str, Layout], LoadedBench],
    model: str,
    names: tuple[str, ...],
    layout: Layout,
    tmp_path: Path,
) -> None:
    bench, (experts, *matrices) = benches[model, layout].at(tmp_path), names
    stack = bench.model.state_dict()["model.layers.0.mlp.experts.gate_up_proj"]
    alone = f"model.layers.0.{experts}.0.{matrices[0]}.weight"
    assert (alone in read_model(bench.base).tensors) == (layout == "one by one")
    generator = torch.Generator().manual_seed(1)
    factors: dict[str, torch.Tensor] = {}
    for expert in range(stack.shape[0]):
        for matrix, (rows, columns) in zip(matrices, ((12, 16), (12, 16), (16, 12)), strict=True):
            module = f"base_model.model.model.layers.0.{experts}.{expert}.{matrix}"
            factors[f"{module}.lora_A.weight"] = torch.randn(2, columns, generator=generator)
            factors[f"{module}.lora_B.weight"] = torch.randn(rows, 2, generator=generator)
    folder = tmp_path / "adapter"
    LoraConfig(r=2, lora_alpha=3, target_modules=matrices).save_pretrained(folder)
    save_file(factors, folder / "adapter_model.safetensors")
    bench.assert_equal((folder, 1.0))


def test_no_block_size_changes_a_byte(benches: dict[tuple[str, Layout], LoadedBench], tmp_path: Path) -> None:
    for model, layout in (("mixtral", "stacked"), ("mixtral", "one by one"), ("gpt-oss", "stacked")):
        bench = benches[model, layout].at(tmp_path)
        settings = partial(LoraConfig, r=2, target_modules=["q_proj"], target_parameters=EXPERTS)
        folder = make_adapter(bench, tmp_path / f"{model} {layout}", settings)
        whole = bench.folded((folder, 1.0), block_bytes=1 << 20)
        for size in (1, 100, 500):
            pieces = bench.folded((folder, 1.0), block_bytes=size)
            assert all(torch.equal(pieces[name], values) for name, values in whole.items())
