"""Adapters whose modules share numbers: we fold what PEFT merges, in float64 and rounded once, element by element."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import FrodConfig, PeftModel, RandLoraConfig, TinyLoraConfig, UniLoraConfig, VBLoRAConfig

from builder.weights.rounding import round_once
from builder.weights.stream import Scratch
from registry.errors import InvalidError
from tests.peft_reference import FAMILIES, Bench, make_adapter

if TYPE_CHECKING:
    from pathlib import Path

LLAMA = ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]
GPT2 = ["c_attn", "c_fc", "c_proj"]

randlora = partial(RandLoraConfig, r=5, randlora_alpha=3)
vblora = partial(VBLoRAConfig, r=3, num_vectors=11, vector_length=8, topk=3)
unilora = partial(UniLoraConfig, r=3, theta_d_length=37, save_indices=True)
tinylora = partial(TinyLoraConfig, r=3, u=5, init_weights="uniform")
frod = partial(FrodConfig, sparse_rate=0.1, progressbar=False)

CASES: dict[str, tuple[str, partial[Any]]] = {
    "randlora": ("llama", partial(randlora, target_modules=LLAMA)),
    "randlora, a rank that divides": ("llama", partial(randlora, r=4, target_modules=[*LLAMA, "lm_head"])),
    "randlora, sparse": ("llama", partial(randlora, sparse=True, target_modules=LLAMA)),
    "randlora, very sparse": ("llama", partial(randlora, very_sparse=True, target_modules=LLAMA)),
    "randlora, biases": ("biased", partial(randlora, target_modules=["k_proj"], bias="randlora_only")),
    "randlora, one layer": ("llama", partial(randlora, target_modules=LLAMA, layers_to_transform=[1])),
    "randlora, conv1d": ("gpt2", partial(randlora, target_modules=GPT2)),
    "vblora": ("llama", partial(vblora, target_modules=LLAMA)),
    "vblora, one of all": ("llama", partial(vblora, topk=1, target_modules=LLAMA)),
    "vblora, all of all": ("llama", partial(vblora, topk=11, target_modules=LLAMA)),
    "vblora, weights only": ("llama", partial(vblora, save_only_topk_weights=True, target_modules=LLAMA)),
    "vblora, weights of one": (
        "llama",
        partial(vblora, topk=1, save_only_topk_weights=True, target_modules=LLAMA),
    ),
    "vblora, biases": ("biased", partial(vblora, target_modules=LLAMA, bias="all")),
    "vblora, conv1d": ("gpt2", partial(vblora, target_modules=GPT2, fan_in_fan_out=True)),
    "unilora": ("llama", partial(unilora, target_modules=LLAMA)),
    "unilora, one number": ("llama", partial(unilora, theta_d_length=1, target_modules=LLAMA)),
    "unilora, conv1d": ("gpt2", partial(unilora, target_modules=GPT2)),
    "tinylora": ("llama", partial(tinylora, target_modules=LLAMA)),
    "tinylora, half tied": ("llama", partial(tinylora, weight_tying=0.5, target_modules=LLAMA)),
    "tinylora, nearly tied": ("llama", partial(tinylora, weight_tying=0.73, target_modules=LLAMA)),
    "tinylora, tied": ("llama", partial(tinylora, weight_tying=1.0, u=1, r=1, target_modules=LLAMA)),
    "tinylora, full rank": ("llama", partial(tinylora, r=99, target_modules=LLAMA)),
    "tinylora, embedding and head": (
        "llama",
        partial(tinylora, weight_tying=0.4, target_modules=["embed_tokens", "lm_head", "v_proj"]),
    ),
    "tinylora, conv1d": ("gpt2", partial(tinylora, target_modules=[*GPT2, "wpe"], fan_in_fan_out=True)),
    "frod": ("llama", partial(frod, target_modules=LLAMA)),
    "frod, dense": ("llama", partial(frod, sparse_rate=1.0, target_modules=["q_proj", "lm_head"])),
    "frod, no sparse part": ("llama", partial(frod, sparse_rate=0.0, target_modules=["k_proj"])),
    "frod, wide": ("llama", partial(frod, target_modules=["k_proj"], layers_to_transform=0)),
    "frod, conv1d": ("gpt2", partial(frod, target_modules=GPT2)),
}
SUMS = ("randlora", "vblora", "unilora", "tinylora, half tied")


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """One base of each family, in bfloat16."""
    return {family: Bench.new(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.mark.parametrize("case", CASES)
def test_every_element_is_that_of_peft_rounded_once(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    bench.assert_equal((make_adapter(bench, tmp_path / "adapter", config), 1.0))


@pytest.mark.parametrize("case", SUMS)
def test_weighted_sums_are_rounded_once(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    first, second = (make_adapter(bench, tmp_path / f"adapter-{seed}", config, seed=seed) for seed in (1, 2))
    assert all(applied.effect.additive for applied in bench.effects(first).values())
    bench.assert_equal((first, 0.7), (second, -1.3))


@pytest.mark.parametrize("case", [*SUMS, "randlora, conv1d", "tinylora, embedding and head", "frod, conv1d"])
def test_the_bytes_do_not_depend_on_the_size_of_blocks(case: str, benches: dict[str, Bench], tmp_path: Path) -> None:
    family, config = CASES[case]
    bench = benches[family].at(tmp_path)
    adapter = make_adapter(bench, tmp_path / "adapter", config)
    small, odd, whole = (bench.folded((adapter, 1.0), block_bytes=size) for size in (1, 100, 1 << 20))
    assert all(torch.equal(small[name], values) and torch.equal(odd[name], values) for name, values in whole.items())


def test_frod_goes_part_of_the_way_from_the_base(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)
    first, second = (make_adapter(bench, tmp_path / f"adapter-{seed}", CASES["frod"][1], seed=seed) for seed in (1, 2))
    assert not any(applied.effect.additive for applied in bench.effects(first).values())
    bench.assert_equal((first, 0.3), (second, 1.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_frod_is_what_peft_makes_of_the_base_in_the_dtype_of_its_basis(
    dtype: torch.dtype, benches: dict[str, Bench], tmp_path: Path
) -> None:
    """PEFT takes a basis from the base in the dtype that it loads it in, so in others it gives other weights."""
    bench = benches["llama"].at(tmp_path)
    trained = replace(bench, model=copy.deepcopy(bench.model).to(dtype))
    adapter = make_adapter(trained, tmp_path / "adapter", CASES["frod"][1])
    found = bench.folded((adapter, 1.0))
    for loaded, same in ((dtype, True), (torch.float64, False)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = PeftModel.from_pretrained(copy.deepcopy(bench.model).to(loaded), adapter)
        reference = wrapped.double().merge_and_unload().state_dict()
        equal = [torch.equal(values.reshape(-1), _rounded(reference[name])) for name, values in found.items()]
        assert all(equal) == same


def _rounded(values: torch.Tensor) -> torch.Tensor:
    out = torch.empty(values.numel(), dtype=torch.bfloat16)
    round_once(values.clone().reshape(-1), out, Scratch())
    return out


def test_randlora_rounds_sparse_bases_to_the_dtype_of_the_base(benches: dict[str, Bench], tmp_path: Path) -> None:
    """One reason to refuse them where they were not saved: PEFT draws them in float32 and rounds as it loads."""
    bench = benches["llama"].at(tmp_path)
    config = partial(randlora, sparse=True, save_projection=False, target_modules=LLAMA)
    adapter = make_adapter(bench, tmp_path / "adapter", config)
    bases = []
    for dtype in (torch.bfloat16, torch.float32):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped: Any = PeftModel.from_pretrained(copy.deepcopy(bench.model).to(dtype), adapter)
        bases.append(wrapped.base_model.randlora_B["default"].double())
    assert not torch.equal(*bases)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (
            partial(randlora, save_projection=False, target_modules=LLAMA),
            (
                "save_projection = False cannot be folded: its random bases are not saved; what PEFT draws again from "
                "the seed depends on the version of torch, and of sparse ones on the dtype in which it loads the base"
            ),
        ),
        (
            partial(unilora, save_indices=False, target_modules=LLAMA),
            (
                "save_indices = False cannot be folded: which numbers each module takes is not saved, and it depends "
                "on the order of the modules in the model's code and on the dtype in which PEFT loads the base"
            ),
        ),
        (
            partial(tinylora, save_projection=False, target_modules=LLAMA),
            (
                "save_projection = False cannot be folded: its projections are not saved, and which one a module has "
                "depends on the order of the modules in the model's code"
            ),
        ),
        (
            partial(frod, save_projection=False, target_modules=LLAMA),
            (
                "save_projection = False cannot be folded: its basis is not saved, and PEFT makes it from all layers "
                "of the base by a decomposition in float32, which is not the same everywhere"
            ),
        ),
    ],
    ids=["randlora", "unilora", "tinylora", "frod"],
)
def test_what_was_not_saved_and_cannot_be_had_is_refused(
    config: partial[Any], what: str, benches: dict[str, Bench], tmp_path: Path
) -> None:
    bench = benches["llama"].at(tmp_path)
    with pytest.raises(InvalidError) as caught:
        bench.effects(make_adapter(bench, tmp_path / "adapter", config))
    assert caught.value.what == what


def test_tinylora_finds_its_vectors_among_projections_of_16_bits(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["llama"].at(tmp_path)
    trained = replace(bench, model=copy.deepcopy(bench.model).bfloat16())
    adapter = make_adapter(trained, tmp_path / "adapter", CASES["tinylora, half tied"][1])
    bench.assert_equal((adapter, 1.0))


def test_tinylora_whose_projections_do_not_tell_its_vectors_is_refused(
    benches: dict[str, Bench], tmp_path: Path
) -> None:
    bench = benches["llama"].at(tmp_path)

    def draw_anew(model: torch.nn.Module) -> None:
        for name, values in model.named_buffers():
            if name.endswith("o_proj.tinylora_P.default"):
                values.normal_()

    with pytest.raises(InvalidError) as caught:
        bench.effects(make_adapter(bench, tmp_path / "adapter", CASES["tinylora"][1], edit=draw_anew))
    assert caught.value.what == (
        "tensor 'base_model.model.model.layers.0.self_attn.o_proj.tinylora_P' does not tell which of the vectors "
        "tinylora_v goes with it"
    )
