"""Adapters in a basis of their own - circulants, wavelets, singular vectors: we fold what PEFT merges in float64."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from peft import C3AConfig, OSFConfig, PeftModel, PsoftConfig, WaveFTConfig
from peft.tuners.waveft.constants import WAVELET_REDUCTIONS
from peft.tuners.waveft.wavelet import Wavelet, wavelist

from builder.weights.adapters import read_adapter
from builder.weights.methods.wavelet_filters import LOW_PASS
from registry.errors import InvalidError
from tests.peft_order import assert_equal_in_order, wide_floats
from tests.peft_reference import FAMILIES, Bench, make_adapter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LLAMA = ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]
GPT2 = ["c_attn", "c_fc", "c_proj"]


def wavelets(**settings: object) -> WaveFTConfig:
    return WaveFTConfig(**{"n_frequency": 40, "target_modules": LLAMA} | settings)


CASES: dict[str, tuple[str, Any]] = {
    "c3a": ("llama", C3AConfig(block_size=8, target_modules=LLAMA)),
    "c3a, patterns": (
        "llama",
        C3AConfig(
            block_size=4,
            block_size_pattern={"q_proj": 16, "model.layers.1.mlp.gate_proj": 2, r"layers\.0\.mlp\.down_proj": 1},
            target_modules=[*LLAMA, "lm_head"],
        ),
    ),
    "c3a, biases": ("biased", C3AConfig(block_size=8, init_weights="gaussian", bias="c3a_only", target_modules=LLAMA)),
    "waveft": ("llama", wavelets()),
    "waveft, sparse": ("biased", wavelets(use_idwt=False, bias="all")),
    "waveft, every place": ("llama", wavelets(n_frequency=16 * 8, scaling=1.5, wavelet_family="db2")),
    "waveft, patterns": (
        "llama",
        wavelets(
            wavelet_family="db3",
            random_loc_seed=-4,
            n_frequency_pattern={"q_proj": 256, "model.layers.1.mlp.gate_proj": 1, r"layers\.0\.mlp\..*": 20},
            target_modules=[*LLAMA, "lm_head"],
        ),
    ),
    "waveft, in proportion": ("llama", wavelets(proportional_parameters=True, random_loc_seed=0)),
    "waveft, conv1d": ("gpt2", wavelets(wavelet_family="coif2", target_modules=GPT2)),
    "waveft, sparse conv1d": ("gpt2", wavelets(use_idwt=False, target_modules=GPT2)),
    **{f"waveft, {name}": ("llama", wavelets(wavelet_family=name)) for name in ("sym3", "sym10", "coif1", "coif4")},
    "osf": ("llama", OSFConfig(target_modules=LLAMA)),
    "osf, patterns": (
        "biased",
        OSFConfig(effective_rank=0.75, rank_pattern={r"layers\.0.*q_proj": 3, "mlp": 0.25}, target_modules=LLAMA),
    ),
    "osf, one weak": ("llama", OSFConfig(effective_rank=15, target_modules=["q_proj", "down_proj", "lm_head"])),
}
SUMS = ["c3a", "waveft", "waveft, conv1d", "waveft, sparse conv1d"]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """One base of each family."""
    return {family: Bench.new(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(autouse=True)
def _wide() -> Iterator[None]:
    with wide_floats("peft.tuners.c3a.layer", "peft.tuners.osf.utils"):
        yield


def adapter_of(case: str, bench: Bench, folder: Path, seed: int = 1) -> Path:
    return make_adapter(bench, folder, lambda: copy.deepcopy(CASES[case][1]), seed=seed)


@pytest.mark.parametrize("case", CASES)
def test_every_element_is_that_of_peft_rounded_once(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches[CASES[case][0]].at(tmp_path)
    bench.assert_equal((adapter_of(case, bench, tmp_path / "adapter"), 1.0))


@pytest.mark.parametrize("case", SUMS)
def test_deltas_of_several_adapters_are_summed(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches[CASES[case][0]].at(tmp_path)
    one, other = (adapter_of(case, bench, tmp_path / str(seed), seed) for seed in (1, 2))
    assert all(applied.effect.additive for applied in bench.effects(one).values())
    bench.assert_equal((one, 0.7), (other, -1.3))


def test_the_weak_part_is_that_of_the_base_whatever_was_merged_before(
    benches: dict[str, Bench], tmp_path: Path
) -> None:
    bench = benches["llama"].at(tmp_path)
    adapters = [adapter_of(case, bench, tmp_path / case, 2) for case in ("osf", "osf, one weak")]
    assert_equal_in_order(bench, *adapters)


def test_a_weight_goes_part_of_the_way_from_the_base(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["biased"].at(tmp_path)
    bench.assert_equal((adapter_of("osf, patterns", bench, tmp_path / "adapter"), 0.3))


@pytest.mark.parametrize(
    "case",
    ["c3a", "c3a, patterns", "waveft", "waveft, sparse conv1d", "waveft, conv1d", "waveft, patterns", "waveft, coif4"],
)
def test_the_bytes_do_not_depend_on_the_size_of_blocks(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches[CASES[case][0]].at(tmp_path)
    adapter = adapter_of(case, bench, tmp_path / "adapter")
    small, odd, whole = (bench.folded((adapter, 1.0), block_bytes=size) for size in (1, 100, 1 << 20))
    assert all(torch.equal(small[name], values) and torch.equal(odd[name], values) for name, values in whole.items())


def test_the_filters_are_those_of_peft() -> None:
    assert LOW_PASS.keys() == set(wavelist()) - {"haar", "coif5"}
    for name, low_pass in LOW_PASS.items():
        assert list(low_pass) == list(Wavelet(name).rec_lo)
        assert WAVELET_REDUCTIONS[name] == (len(low_pass) - 2,) * 2


@pytest.mark.parametrize("name", ["coif5", "db11"])
def test_peft_itself_cannot_merge_some_wavelets(name: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)
    adapter = make_adapter(bench, tmp_path / "adapter", lambda: wavelets(wavelet_family=name))
    with pytest.raises((RuntimeError, ValueError)):
        bench.merged((adapter, 1.0))
    with pytest.raises(InvalidError) as caught:
        bench.effects(adapter)
    assert caught.value.what == (
        f"wavelet_family = '{name}' cannot be folded: PEFT has no filter of that name and its length"
    )


@pytest.mark.parametrize(("family", "targets"), [("gpt2", GPT2), ("llama", ["embed_tokens"])])
def test_peft_itself_passes_over_what_osf_cannot_do(
    family: str, targets: list[str], benches: dict[str, Bench], tmp_path: Path
) -> None:
    bench = benches[family].at(tmp_path)
    adapter = make_adapter(bench, tmp_path / "adapter", lambda: OSFConfig(target_modules=targets))
    with pytest.raises(InvalidError) as caught:
        read_adapter(adapter)
    assert caught.value.what == "the adapter has no tensors"


def test_psoft_depends_on_the_signs_of_singular_vectors(benches: dict[str, Bench], tmp_path: Path) -> None:
    """Why it is refused: the adapter's file holds neither factor, and the file says the same for either sign."""
    bench = benches["llama"].at(tmp_path)
    plain = {"psoft_mag_a": False, "psoft_mag_b": False, "target_modules": ["q_proj"]}
    adapter = make_adapter(bench, tmp_path / "adapter", lambda: PsoftConfig(r=3, **plain))
    with pytest.raises(InvalidError) as caught:
        read_adapter(adapter)
    assert caught.value.what == (
        "adapters of type PSOFT cannot be folded: the factors that it turns are not saved; PEFT takes singular vectors "
        "of the base again when it loads, and their signs, which it depends on, are not the same everywhere"
    )
    merged, name = [], "model.layers.0.self_attn.q_proj.weight"
    svd = torch.linalg.svd
    for sign in (1.0, -1.0):
        signs = torch.tensor([sign] + [1.0] * 15)

        def decomposed(matrix: torch.Tensor, signs: torch.Tensor = signs, **settings: bool) -> tuple[torch.Tensor, ...]:
            left, values, right = svd(matrix, **settings)
            return left * signs, values, right * signs[:, None]

        with mock.patch.object(torch.linalg, "svd", decomposed):
            wrapped = PeftModel.from_pretrained(copy.deepcopy(bench.model), adapter)
        merged.append(wrapped.merge_and_unload().get_parameter(name))
    apart, change = (merged[0] - merged[1]).norm(), (merged[0] - bench.model.get_parameter(name)).norm()
    assert apart > 0.1 * change
