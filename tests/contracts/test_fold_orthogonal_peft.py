"""Adapters that turn a weight: we fold what PEFT merges, in float64 and rounded once, element by element."""

from __future__ import annotations

import copy
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import BOFTConfig, HRAConfig, OFTConfig, RoadConfig
from peft.tuners.boft import layer as boft_layer

from builder.weights.adapters import read_adapter
from tests.peft_order import assert_equal_in_order
from tests.peft_reference import FAMILIES, Bench, make_adapter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LLAMA = ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]
GPT2 = ["c_attn", "c_fc", "c_proj"]

CASES: dict[str, tuple[str, Any]] = {
    "oft": ("llama", OFTConfig(oft_block_size=4, target_modules=LLAMA)),
    "oft, exact": ("llama", OFTConfig(oft_block_size=8, use_cayley_neumann=False, target_modules=LLAMA)),
    "oft, blocks by number": ("llama", OFTConfig(r=2, oft_block_size=0, target_modules=[*LLAMA, "lm_head"])),
    "oft, a size that does not divide": ("llama", OFTConfig(oft_block_size=5, target_modules=LLAMA)),
    "oft, a number that does not divide": ("llama", OFTConfig(r=7, oft_block_size=0, target_modules=LLAMA)),
    "oft, a size beyond the inputs": (
        "llama",
        OFTConfig(oft_block_size=32, use_cayley_neumann=False, target_modules=LLAMA),
    ),
    "oft, shared": ("llama", OFTConfig(oft_block_size=4, block_share=True, target_modules=LLAMA)),
    "oft, constrained": ("llama", OFTConfig(oft_block_size=4, coft=True, eps=0.2, target_modules=LLAMA)),
    "oft, shared and constrained": (
        "llama",
        OFTConfig(
            oft_block_size=4, block_share=True, coft=True, eps=0.5, use_cayley_neumann=False, target_modules=LLAMA
        ),
    ),
    "oft, loosely constrained": ("llama", OFTConfig(oft_block_size=4, coft=True, eps=90.0, target_modules=LLAMA)),
    "oft, embedding": ("llama", OFTConfig(oft_block_size=4, target_modules=["embed_tokens", "v_proj"])),
    "oft, shared embedding": (
        "llama",
        OFTConfig(oft_block_size=8, block_share=True, use_cayley_neumann=False, target_modules=["embed_tokens"]),
    ),
    "oft, biases": ("biased", OFTConfig(oft_block_size=4, module_dropout=0.1, bias="oft_only", target_modules=LLAMA)),
    **{
        f"oft, {terms} terms": (
            "llama",
            OFTConfig(oft_block_size=4, num_cayley_neumann_terms=terms, target_modules=["q_proj"]),
        )
        for terms in (2, 3, 4, 7)
    },
    "boft": ("llama", BOFTConfig(boft_block_size=4, target_modules=LLAMA)),
    "boft, blocks by number": ("biased", BOFTConfig(boft_block_size=0, boft_block_num=8, target_modules=LLAMA)),
    "boft, one odd block": ("llama", BOFTConfig(boft_block_size=1, target_modules=LLAMA)),
    "boft, biases": ("biased", BOFTConfig(boft_block_size=8, boft_dropout=0.1, bias="all", target_modules=LLAMA)),
    "boft, factors that PEFT leaves out on a CPU": (
        "llama",
        BOFTConfig(boft_block_size=2, boft_n_butterfly_factor=3, target_modules=LLAMA),
    ),
    "hra": ("llama", HRAConfig(r=4, target_modules=[*LLAMA, "lm_head"])),
    "hra, orthogonal": ("biased", HRAConfig(r=5, apply_GS=True, init_weights=False, target_modules=LLAMA)),
    "hra, as many as inputs": ("llama", HRAConfig(r=16, target_modules=["q_proj"])),
    "road 1": ("llama", RoadConfig(group_size=4, target_modules=LLAMA)),
    "road 2": ("llama", RoadConfig(variant="road_2", group_size=8, target_modules=[*LLAMA, "lm_head"])),
    "road 4": ("llama", RoadConfig(variant="road_4", group_size=2, target_modules=LLAMA)),
    "road 1, biases": ("biased", RoadConfig(group_size=8, target_modules=LLAMA)),
    "road 2, biases": ("biased", RoadConfig(variant="road_2", group_size=4, target_modules=LLAMA)),
    "road 4, biases": ("biased", RoadConfig(variant="road_4", group_size=8, target_modules=LLAMA)),
}
STACKS = [
    "oft",
    "oft, exact",
    "oft, embedding",
    "oft, shared and constrained",
    "boft",
    "hra",
    "hra, orthogonal",
    "road 2",
    "road 4, biases",
]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """One base of each family."""
    return {family: Bench.new(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def adapter_of(case: str, bench: Bench, folder: Path, seed: int = 1) -> Path:
    return make_adapter(bench, folder, lambda: copy.deepcopy(CASES[case][1]), seed=seed)


class BlockDiagonals:
    """What PEFT's CUDA extension computes, on any device: the blocks of each factor put on a diagonal."""

    @staticmethod
    def forward(blocks: torch.Tensor) -> list[torch.Tensor]:
        return [torch.stack([torch.block_diag(*factor) for factor in blocks])]


@pytest.mark.parametrize("case", CASES)
def test_every_element_is_that_of_peft_rounded_once(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches[CASES[case][0]].at(tmp_path)
    adapter = adapter_of(case, bench, tmp_path / "adapter")
    assert not any(applied.effect.additive for applied in bench.effects(adapter).values())
    bench.assert_equal((adapter, 1.0))


@pytest.mark.parametrize("case", STACKS)
def test_two_in_an_order_are_what_peft_merges_in_that_order(
    case: str, benches: dict[str, Bench], tmp_path: Path
) -> None:
    bench = benches[CASES[case][0]].at(tmp_path)
    first, second = (adapter_of(case, bench, tmp_path / str(seed), seed) for seed in (1, 2))
    assert_equal_in_order(bench, first, second)
    one, other = (bench.folded(*pair, block_bytes=1) for pair in permutations([(first, 1.0), (second, 1.0)]))
    assert any(not torch.equal(values, other[name]) for name, values in one.items()), "the order does not matter"


@pytest.mark.parametrize(
    ("size", "number", "factors"), [(2, 0, 2), (2, 0, 3), (4, 0, 2), (0, 4, 2), (0, 2, 2), (0, 8, 4)]
)
def test_factors_of_butterflies_are_those_of_the_cuda_extension(  # noqa: PLR0917 - pytest gives them by name
    size: int, number: int, factors: int, benches: dict[str, Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boft_layer, "get_fbd_cuda", lambda: BlockDiagonals)
    bench = benches["biased"].at(tmp_path)
    config = {"boft_block_size": size, "boft_block_num": number, "boft_n_butterfly_factor": factors}
    targets = ["q_proj", "up_proj"]
    adapter = make_adapter(bench, tmp_path / "adapter", lambda: BOFTConfig(**config, target_modules=targets))
    shapes = {stored.info.shape[0] for stored in read_adapter(adapter).tensors if stored.info.name.endswith("boft_R")}
    assert shapes == {factors}
    bench.assert_equal((adapter, 1.0))


@pytest.mark.parametrize("case", ["oft", "boft, biases", "hra", "road 4, biases", "oft, embedding"])
def test_a_weight_goes_part_of_the_way_from_the_base(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches[CASES[case][0]].at(tmp_path)
    bench.assert_equal((adapter_of(case, bench, tmp_path / "adapter"), 0.3))


@pytest.mark.parametrize("case", [*STACKS, "oft, shared embedding", "road 1, biases", "road 2, biases"])
def test_the_bytes_do_not_depend_on_the_size_of_blocks(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches[CASES[case][0]].at(tmp_path)
    adapter = adapter_of(case, bench, tmp_path / "adapter")
    small, odd, whole = (bench.folded((adapter, 1.0), block_bytes=size) for size in (1, 100, 1 << 20))
    assert all(torch.equal(small[name], values) and torch.equal(odd[name], values) for name, values in whole.items())


@pytest.mark.parametrize("make", [OFTConfig, BOFTConfig, HRAConfig, RoadConfig])
def test_peft_itself_has_none_for_conv1d(make: Callable[..., Any], benches: dict[str, Bench], tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError)):
        make_adapter(benches["gpt2"], tmp_path / "adapter", lambda: make(target_modules=GPT2))


@pytest.mark.parametrize("make", [BOFTConfig, HRAConfig, RoadConfig])
def test_peft_itself_has_none_for_embeddings(
    make: Callable[..., Any], benches: dict[str, Bench], tmp_path: Path
) -> None:
    with pytest.raises((TypeError, ValueError)):
        make_adapter(benches["llama"], tmp_path / "adapter", lambda: make(target_modules=["embed_tokens"]))
