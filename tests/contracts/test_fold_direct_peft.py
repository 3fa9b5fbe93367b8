"""Adapters of single values, of biases, and of what the weight itself says: we fold what PEFT merges in float64."""

from __future__ import annotations

import platform
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from peft import BeftConfig, DeftConfig, LilyConfig, PeanutConfig, ShadowConfig, ShiraConfig, SupertuningConfig
from peft.tuners.deft import layer as deft_layer
from transformers.activations import ACT2FN

from builder.weights.methods.weight_aware import ACTIVATIONS
from registry.errors import InvalidError
from tests.peft_reference import FAMILIES, Bench, make_adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LLAMA = ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]
GPT2 = ["c_attn", "c_fc", "c_proj"]

shira = partial(ShiraConfig, r=2)
supertuning = partial(SupertuningConfig, sparsity=0.83)
deft = partial(DeftConfig, r=3)
peanut = partial(PeanutConfig, r=3)

CASES: dict[str, tuple[str, partial[Any]]] = {
    "shira": ("llama", partial(shira, random_seed=7, target_modules=LLAMA)),
    "shira, no seed": ("llama", partial(shira, target_modules=["q_proj", "lm_head"])),
    "shira, everywhere": ("llama", partial(shira, r=8, target_modules=["q_proj"])),
    "supertuning": ("llama", partial(supertuning, target_modules=LLAMA)),
    "supertuning, smallest": ("llama", partial(supertuning, select_top=False, target_modules=LLAMA)),
    "supertuning, everywhere": ("llama", partial(supertuning, sparsity=0.0, target_modules=["k_proj", "lm_head"])),
    "supertuning, low rank": ("llama", partial(supertuning, r=3, target_modules=LLAMA)),
    "supertuning, alpha": ("llama", partial(supertuning, r=3, lora_alpha=5, lora_dropout=0.1, target_modules=LLAMA)),
    "beft": ("biased", partial(BeftConfig, target_modules=LLAMA)),
    "deft": ("llama", partial(deft, target_modules=LLAMA)),
    "deft, orthogonal": ("llama", partial(deft, decomposition_method="qr", target_modules=LLAMA)),
    "deft, alpha": ("llama", partial(deft, alpha=7, target_modules=LLAMA)),
    "deft, orthogonal, full rank": (
        "llama",
        partial(deft, r=99, alpha=7, decomposition_method="qr", target_modules=["k_proj", "lm_head"]),
    ),
    "deft, para": ("llama", partial(deft, para=True, target_modules=LLAMA)),
    "deft, orthogonal para": ("llama", partial(deft, para=True, decomposition_method="qr", target_modules=LLAMA)),
    "deft, biases": ("biased", partial(deft, bias="deft_only", target_modules=LLAMA)),
    "deft, conv1d": ("gpt2", partial(deft, target_modules=GPT2, fan_in_fan_out=True)),
    "deft, conv1d para": ("gpt2", partial(deft, para=True, target_modules=GPT2)),
    "peanut": ("llama", partial(peanut, target_modules=LLAMA)),
    "peanut, scaled": ("llama", partial(peanut, scaling=0.7, target_modules=[*LLAMA, "lm_head"])),
    "peanut, one layer deep": ("llama", partial(peanut, depth=1, act_fn="tanh", target_modules=LLAMA)),
    "peanut, three layers deep": ("llama", partial(peanut, depth=3, act_fn="silu", target_modules=LLAMA)),
} | {
    f"peanut, {name}": ("llama", partial(peanut, depth=1, act_fn=name, target_modules=["k_proj"]))
    for name in ACTIVATIONS
}
NO_SUMS = ("deft", "deft, orthogonal para", "peanut, three layers deep")
SUMS = ("shira", "supertuning, alpha", "beft")


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """One base of each family, in bfloat16."""
    return {family: Bench.new(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(autouse=True)
def _no_float32() -> Iterator[None]:
    """DEFT casts to float32 while it merges, whatever the dtypes are; for the reference it is made to use float64."""
    wider = mock.MagicMock(wraps=torch, float32=torch.float64)
    with mock.patch.object(deft_layer, "torch", wider):
        yield


@pytest.mark.parametrize("case", CASES)
def test_every_element_is_that_of_peft_rounded_once(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    bench.assert_equal((make_adapter(bench, tmp_path / "adapter", config), 1.0))


def test_every_activation_without_parameters_is_there() -> None:
    assert ACT2FN.keys() - ACTIVATIONS.keys() == {"prelu", "xielu"}


@pytest.mark.parametrize("case", SUMS)
def test_weighted_sums_are_rounded_once(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    first, second = (make_adapter(bench, tmp_path / f"adapter-{seed}", config, seed=seed) for seed in (1, 2))
    assert all(applied.effect.additive for applied in bench.effects(first).values())
    bench.assert_equal((first, 0.7), (second, -1.3))


@pytest.mark.parametrize("case", NO_SUMS)
def test_a_weight_goes_part_of_the_way_from_the_base(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    adapter = make_adapter(bench, tmp_path / "adapter", config)
    assert not any(applied.effect.additive for applied in bench.effects(adapter).values())
    bench.assert_equal((adapter, 0.3))


@pytest.mark.parametrize("case", NO_SUMS)
def test_several_see_the_same_base(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    """PEFT computes each adapter's change from the base as it was before any other was merged."""
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    first, second = (make_adapter(bench, tmp_path / f"adapter-{seed}", config, seed=seed) for seed in (1, 2))
    bench.assert_equal((first, 1.0), (second, 0.6))


@pytest.mark.parametrize("case", [*NO_SUMS, *SUMS, "deft, conv1d"])
def test_the_bytes_do_not_depend_on_the_size_of_blocks(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    adapter = make_adapter(bench, tmp_path / "adapter", config)
    small, odd, whole = (bench.folded((adapter, 1.0), block_bytes=size) for size in (1, 100, 1 << 20))
    assert all(torch.equal(small[name], values) and torch.equal(odd[name], values) for name, values in whole.items())


def test_places_that_were_saved_as_floats_are_read(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)
    with mock.patch.object(platform, "system", return_value="Windows"):
        adapter = make_adapter(bench, tmp_path / "adapter", CASES["shira"][1])
    bench.assert_equal((adapter, 1.0))


def test_supertuning_without_places_is_refused(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)
    config = partial(supertuning, save_precomputed_indices=False, target_modules=LLAMA)
    with pytest.raises(InvalidError) as caught:
        bench.effects(make_adapter(bench, tmp_path / "adapter", config))
    assert caught.value.what == (
        "save_precomputed_indices = False cannot be folded: the places of its values are not saved, and among equal "
        "magnitudes of the base PEFT's choice is open"
    )


def test_a_model_without_biases_has_no_place_for_beft(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)
    adapter = make_adapter(bench, tmp_path / "adapter", partial(BeftConfig, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="Base layer has no bias, cannot merge bias adapter default"):
        bench.merged((adapter, 1.0))
    with pytest.raises(InvalidError) as caught:
        bench.effects(adapter)
    assert caught.value.what == (
        "tensor 'base_model.model.model.layers.0.self_attn.q_proj.beft_bias' changes "
        "model.layers.0.self_attn.q_proj.bias, which the model has not"
    )


@pytest.mark.parametrize("config", [shira, supertuning, BeftConfig, peanut])
def test_peft_itself_has_none_for_conv1d(config: Callable[..., Any], benches: dict[str, Bench], tmp_path: Path) -> None:
    with pytest.raises((TypeError, AttributeError, NotImplementedError)):
        make_adapter(benches["gpt2"], tmp_path / "adapter", partial(config, target_modules=GPT2))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (partial(LilyConfig, r=2, target_modules=["q_proj"]), "it mixes its factors anew for every input"),
        (partial(ShadowConfig, r=2), "it is a second network that runs beside the model"),
    ],
)
def test_what_peft_itself_cannot_merge_is_refused(
    config: Callable[[], Any], why: str, benches: dict[str, Bench], tmp_path: Path
) -> None:
    bench = benches["llama"].at(tmp_path)
    adapter = make_adapter(bench, tmp_path / "adapter", config)
    with pytest.raises((NotImplementedError, ValueError)):
        bench.merged((adapter, 1.0))
    with pytest.raises(InvalidError, match=why):
        bench.effects(adapter)
