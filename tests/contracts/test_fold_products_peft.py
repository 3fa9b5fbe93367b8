"""Low-rank products that multiply a weight or are bounded by it: we fold what PEFT merges in float64, rounded once."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import DeloraConfig, HiraConfig

from tests.peft_order import assert_equal_in_order
from tests.peft_reference import FAMILIES, Bench, make_adapter

if TYPE_CHECKING:
    from pathlib import Path

LLAMA = ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]
GPT2 = ["c_attn", "c_fc", "c_proj"]

CASES: dict[str, tuple[str, Any]] = {
    "hira": ("llama", HiraConfig(r=4, target_modules=[*LLAMA, "lm_head"])),
    "hira, a rank that PEFT ignores": (
        "llama",
        HiraConfig(r=4, rank_pattern={"q_proj": 2}, hira_dropout=0.1, init_weights="gaussian", target_modules=LLAMA),
    ),
    "hira, embedding": ("llama", HiraConfig(r=4, target_modules=["embed_tokens", "v_proj"])),
    "hira, conv1d": ("gpt2", HiraConfig(r=4, target_modules=GPT2)),
    "delora": ("llama", DeloraConfig(r=4, target_modules=[*LLAMA, "lm_head"])),
    "delora, patterns": (
        "biased",
        DeloraConfig(
            r=4,
            delora_lambda=3,
            module_dropout=0.1,
            rank_pattern={"q_proj": 2, r"layers\.0\.mlp\..*": 7},
            lambda_pattern={"q_proj": 9},
            bias="delora_only",
            target_modules=LLAMA,
        ),
    ),
}


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """One base of each family."""
    return {family: Bench.new(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def adapter_of(case: str, bench: Bench, folder: Path, seed: int = 1) -> Path:
    return make_adapter(bench, folder, lambda: copy.deepcopy(CASES[case][1]), seed=seed)


@pytest.mark.parametrize("case", CASES)
def test_every_element_is_that_of_peft_rounded_once(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches[CASES[case][0]].at(tmp_path)
    bench.assert_equal((adapter_of(case, bench, tmp_path / "adapter"), 1.0))


def test_vectors_that_are_too_short_are_not_made_longer(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)

    def shorten(model: torch.nn.Module) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "delora_A" in name:
                    parameter[0] *= 1e-6
                    parameter[1] = 0
                elif "delora_B" in name:
                    parameter[:, 2] *= 1e-6

    config = DeloraConfig(r=4, target_modules=LLAMA)
    bench.assert_equal((make_adapter(bench, tmp_path / "adapter", lambda: config, edit=shorten), 1.0))


def test_deltas_of_several_adapters_are_summed(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)
    one, other = (adapter_of("delora", bench, tmp_path / str(seed), seed) for seed in (1, 2))
    assert all(applied.effect.additive for applied in bench.effects(one).values())
    bench.assert_equal((one, 0.7), (other, -1.3))


@pytest.mark.parametrize("case", ["hira", "hira, embedding", "hira, conv1d"])
def test_each_multiplies_the_base_whatever_was_merged_before(
    case: str, benches: dict[str, Bench], tmp_path: Path
) -> None:
    bench = benches[CASES[case][0]].at(tmp_path)
    assert_equal_in_order(bench, *(adapter_of(case, bench, tmp_path / str(seed), seed) for seed in (1, 2, 3)))


@pytest.mark.parametrize("case", ["hira", "hira, conv1d"])
def test_weights_go_part_of_the_way_from_the_base(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches[CASES[case][0]].at(tmp_path)
    one, other = (adapter_of(case, bench, tmp_path / str(seed), seed) for seed in (1, 2))
    assert not any(applied.effect.additive for applied in bench.effects(one).values())
    bench.assert_equal((one, 0.3), (other, -0.6))


@pytest.mark.parametrize("case", ["hira", "hira, conv1d", "hira, embedding", "delora"])
def test_the_bytes_do_not_depend_on_the_size_of_blocks(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches[CASES[case][0]].at(tmp_path)
    adapter = adapter_of(case, bench, tmp_path / "adapter")
    small, odd, whole = (bench.folded((adapter, 1.0), block_bytes=size) for size in (1, 100, 1 << 20))
    assert all(torch.equal(small[name], values) and torch.equal(odd[name], values) for name, values in whole.items())


def test_peft_itself_has_no_delora_for_conv1d(benches: dict[str, Bench], tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        make_adapter(benches["gpt2"], tmp_path / "adapter", lambda: DeloraConfig(target_modules=GPT2))
