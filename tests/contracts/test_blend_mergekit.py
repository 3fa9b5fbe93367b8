"""What we blend is what mergekit means: its own methods, run on the same tensors in float64, give the same numbers.

Runs under a Python that has mergekit 0.1.5, named by VARIETAL_MERGEKIT_PYTHON; mergekit is LGPL and no dependency of
ours. Its results are rounded once to the dtype that we write, and must then be equal, element by element. Exceptions,
each with a test of its own:

* ``TIES_OF_ROUNDING``: with weights such as 0.3 many results lie half-way between two values of the dtype, as nearly as
  float64 can tell. mergekit multiplies and adds in one step there, we in two; the last bit of the float64 then decides.
* ``IN_SINGLE``: mergekit thins out by chance, and rescales after it, in float32 even when it is asked for float64. With
  our draws in place of its own it must keep the same elements, and come within 1e-6.
* Of equal magnitudes mergekit keeps any, we keep the first ones.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from safetensors.torch import load_file, save_file

from builder.blend_methods import BLEND_METHODS
from builder.weights.blend.draws import WORDS, Draws
from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.rounding import round_once
from builder.weights.stream import Scratch
from registry.digest import digest_bytes
from tests.blending import blend

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.mergekit

SHAPES: Final = {"matrix": (24, 40), "vector": (53,), "stack": (3, 5, 8)}
SEED: Final = 5

PEER: Final = """
import json, sys, torch
from safetensors.torch import load_file, save_file
from mergekit.merge_methods import merge_state_dicts
folder = sys.argv[1]
cases = json.load(open(f"{folder}/cases.json"))
models = load_file(f"{folder}/models.safetensors")
draws = load_file(f"{folder}/draws.safetensors")
results = {}
for case in cases:
    for tensor in case["tensors"]:
        parts = {name: {tensor: models[f"{case['data']}/{name}/{tensor}"]} for name in case["models"]}
        queue = [draws[f"{name}/{tensor}"] for name in case["models"] if name != "base"]
        torch.bernoulli = lambda chance: (queue.pop(0).reshape(chance.shape) < chance.double()).to(chance.dtype)
        merged = merge_state_dicts(
            parts, case["method"], parameters=case["parameters"], base=case["base"], dtype=getattr(torch, case["dtype"])
        )
        results[f"{case['name']}/{tensor}"] = merged[tensor].contiguous().clone()
save_file(results, f"{folder}/results.safetensors")
"""

KEYS: Final = {"lambda_": "lambda", "steps": "max_iter", "tolerance": "tol"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One blend.

    Attributes:
        method: Its name.
        count: Number of models beside the base.
        models: Key -> what each model has, such as weights.
        settings: As our recipe has them.
        peer: What mergekit is told beside, or instead.
        base: Whether there is one.
        tensors: Which of the tensors.
        data: Which models.
    """

    method: str
    count: int = 3
    models: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    peer: Mapping[str, Any] = field(default_factory=dict)
    base: bool = True
    tensors: tuple[str, ...] = tuple(SHAPES)
    data: str = "float"

    @property
    def names(self) -> list[str]:
        return [f"model-{number}" for number in range(self.count)]

    def to_peer(self, name: str) -> dict[str, Any]:
        said = {KEYS.get(key, key): value for key, value in self.settings.items() if key not in {"row_wise", "seed"}}
        if self.method == "multislerp" and "normalize" in said:
            said["normalize_weights"] = said.pop("normalize")
        per_model = {key: dict(zip(self.names, values, strict=True)) for key, values in self.models.items()}
        return {
            "name": name,
            "method": self.method,
            "models": ["base", *self.names] if self.base else self.names,
            "base": "base" if self.base else None,
            "parameters": {**said, **per_model, **self.peer},
            "tensors": self.tensors,
            "data": self.data,
            "dtype": "float64",
        }


EVEN: Final = {"weight": (1.0, 1.0, 1.0)}
MIXED: Final = {"weight": (0.3, 0.9, -0.2)}
THIN: Final = {"density": (0.5, 0.37, 0.81)}
CASES: Final[Mapping[str, Case]] = {
    "linear": Case(method="linear", models=MIXED, base=False),
    "linear, mean": Case(method="linear", models=EVEN, base=False),
    "linear, sum": Case(method="linear", models=MIXED, settings={"normalize": False}, base=False),
    "slerp": Case(method="slerp", count=1, settings={"t": 0.3}),
    "slerp, beyond": Case(method="slerp", count=1, settings={"t": 1.4}, data="far"),
    "slerp, far": Case(method="slerp", count=1, settings={"t": 0.5}, data="far"),
    "nuslerp": Case(method="nuslerp", count=2, models={"weight": (0.4, 0.9)}, base=False),
    "nuslerp, tasks": Case(method="nuslerp", count=2, models={"weight": (0.4, 0.9)}),
    "nuslerp, rows": Case(
        method="nuslerp",
        count=2,
        models={"weight": (0.4, 0.9)},
        settings={"row_wise": True},
        peer={"nuslerp_flatten": False},
    ),
    "multislerp": Case(method="multislerp", models={"weight": (0.2, 0.5, 0.9)}, base=False),
    "multislerp, tasks": Case(method="multislerp", models={"weight": (0.2, 0.5, 0.9)}),
    "multislerp, sum": Case(method="multislerp", models={"weight": (0.2, 0.5, 0.9)}, settings={"normalize": False}),
    "karcher": Case(method="karcher", base=False),
    "karcher, far": Case(method="karcher", base=False, data="far", settings={"steps": 4}),
    "task arithmetic": Case(method="task_arithmetic", models=MIXED, settings={"lambda_": 0.7}),
    "task arithmetic, mean": Case(method="task_arithmetic", models=MIXED, settings={"normalize": True}),
    "ties": Case(method="ties", models=EVEN | THIN),
    "ties, weights": Case(method="ties", models=MIXED | THIN, settings={"lambda_": 1.3}),
    "ties, sum": Case(method="ties", models=MIXED | THIN, settings={"normalize": False}),
    "ties, rescaled": Case(method="ties", models=MIXED | THIN, settings={"rescale": True}),
    "ties, few": Case(method="ties", models=EVEN | {"density": (0.0, 1.0, 1e-6)}),
    "breadcrumbs": Case(method="breadcrumbs", models=MIXED | THIN | {"gamma": (0.01, 0.1, 0.3)}),
    "breadcrumbs ties": Case(method="breadcrumbs_ties", models=EVEN | THIN | {"gamma": (0.05, 0.1, 0.0)}),
    "dare, all": Case(method="dare_linear", models=MIXED),
    "dare linear": Case(method="dare_linear", models=MIXED | THIN),
    "dare linear, not rescaled": Case(method="dare_linear", models=MIXED | THIN, settings={"rescale": False}),
    "dare ties": Case(method="dare_ties", models=EVEN | THIN),
    "della": Case(method="della", models=EVEN | THIN | {"epsilon": (0.1, 0.2, 0.15)}, tensors=("matrix", "vector")),
    "della linear": Case(
        method="della_linear", models=MIXED | THIN | {"epsilon": (0.1, 0.2, 0.15)}, tensors=("matrix", "vector")
    ),
    "sce": Case(method="sce"),
    "sce, selected": Case(method="sce", settings={"select_topk": 0.4}),
    "sce, two": Case(method="sce", count=2, settings={"select_topk": 0.7}),
    "sce, near": Case(method="sce", data="near"),
    "model stock": Case(method="model_stock"),
    "model stock, two": Case(method="model_stock", count=2),
    "model stock, rows": Case(method="model_stock", settings={"filter_wise": True}),
    "model stock, near": Case(method="model_stock", data="near"),
    "nearswap": Case(method="nearswap", count=1, settings={"t": 0.05}),
    "arcee fusion": Case(method="arcee_fusion", count=1),
    "ties, bf16": Case(method="ties", models=EVEN | {"density": (0.5, 0.5, 0.5)}, data="short"),
    "ties, bf16, all": Case(method="ties", models={"weight": (1.0, 0.5, 0.25)}, data="short"),
    "linear, bf16, tenths": Case(method="linear", models={"weight": (0.3, 0.7)}, count=2, base=False, data="short"),
    "linear, bf16": Case(method="linear", models=EVEN, base=False, data="short"),
    "linear, bf16, thirds": Case(method="linear", models={"weight": (1.0, 2.0)}, count=2, base=False, data="short"),
    "task arithmetic, bf16": Case(method="task_arithmetic", models={"weight": (0.5, 0.25, 2.0)}, data="short"),
}
TIES_OF_ROUNDING: Final = {"linear", "linear, sum", "linear, bf16, tenths"}
IN_SINGLE: Final = {"dare linear", "dare linear, not rescaled", "dare ties", "della", "della linear"}
EXACT: Final = sorted(CASES.keys() - TIES_OF_ROUNDING - IN_SINGLE - {"ties, bf16"})

# Kinds of models -> how far they are from the base, and the dtype that they are stored in.
DATA: Final = {
    "float": (0.3, torch.float32),
    "far": (3.0, torch.float32),
    "near": (1e-4, torch.float32),
    "short": (0.05, torch.bfloat16),
}


def models() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    found: dict[str, torch.Tensor] = {}
    for kind, (distance, dtype) in DATA.items():
        for tensor, shape in SHAPES.items():
            base = torch.randn(*shape, generator=generator)
            found[f"{kind}/base/{tensor}"] = base.to(dtype)
            for number in range(3):
                moved = base + distance * torch.randn(*shape, generator=generator)
                found[f"{kind}/model-{number}/{tensor}"] = moved.to(dtype)
    return found


def draws(number: int, tensor: str) -> torch.Tensor:
    """What our random methods draw for a model, as numbers from 0 to 1."""
    source = Draws(SEED, digest_bytes(str(number).encode()), tensor)
    count = int(torch.Size(SHAPES[tensor]).numel())
    return torch.from_numpy(source.words(0, count).astype("float64")) / WORDS


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, torch.Tensor]:
    """What mergekit makes of every case: ``case/tensor`` -> float64."""
    return merged(tmp_path_factory.mktemp("mergekit"), [case.to_peer(name) for name, case in CASES.items()])


def merged(folder: Path, cases: list[dict[str, Any]]) -> Mapping[str, torch.Tensor]:
    (folder / "cases.json").write_text(json.dumps(cases))
    save_file(models(), folder / "models.safetensors")
    uniform = {f"model-{number}/{tensor}": draws(number, tensor) for number in range(3) for tensor in SHAPES}
    save_file(uniform, folder / "draws.safetensors")
    python = os.environ["VARIETAL_MERGEKIT_PYTHON"]
    subprocess.run([python, "-c", PEER, str(folder)], check=True)
    return load_file(folder / "results.safetensors")


def ours(case: Case, tensor: str, dtype: str) -> torch.Tensor:
    held = models()
    parts = [held[f"{case.data}/{name}/{tensor}"] for name in case.names]
    base = held[f"{case.data}/base/{tensor}"] if case.base else None
    said = [{key: values[number] for key, values in case.models.items()} for number in range(case.count)]
    settings = {"seed": SEED} | dict(case.settings)
    return blend(case.method, parts, base, dtype=dtype, name=tensor, models=said, **settings)


def rounded(values: torch.Tensor, dtype: str) -> torch.Tensor:
    out = torch.empty(values.numel(), dtype=TORCH_DTYPES[dtype])
    round_once(values.double().reshape(-1).clone(), out, Scratch())
    return out.view(values.shape)


def test_every_method_is_held_against_mergekit() -> None:
    assert {case.method for case in CASES.values()} == BLEND_METHODS.keys() - {"passthrough"}


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", EXACT)
def test_the_numbers_are_those_of_mergekit(name: str, dtype: str, theirs: Mapping[str, torch.Tensor]) -> None:
    case = CASES[name]
    for tensor in case.tensors:
        found, expected = ours(case, tensor, dtype), rounded(theirs[f"{name}/{tensor}"], dtype)
        assert torch.equal(found, expected), f"{tensor}: {int((found != expected).sum())} elements differ"


@pytest.mark.parametrize("name", sorted(CASES.keys() - IN_SINGLE - {"ties, bf16"}))
def test_before_the_rounding_they_are_equal_to_the_last_bits(name: str, theirs: Mapping[str, torch.Tensor]) -> None:
    case = CASES[name]
    for tensor in case.tensors:
        torch.testing.assert_close(ours(case, tensor, "F64"), theirs[f"{name}/{tensor}"], rtol=1e-15, atol=2e-14)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", sorted(TIES_OF_ROUNDING))
def test_where_they_differ_the_value_is_half_way_between_two(
    name: str, dtype: str, theirs: Mapping[str, torch.Tensor]
) -> None:
    case = CASES[name]
    for tensor in case.tensors:
        value = theirs[f"{name}/{tensor}"]
        found, expected = ours(case, tensor, dtype), rounded(value, dtype)
        nudged = [rounded(value * (1 + nudge), dtype) for nudge in (-1e-15, 1e-15)]
        assert bool(((found == expected) | (found == nudged[0]) | (found == nudged[1])).all())


@pytest.mark.parametrize("name", sorted(IN_SINGLE))
def test_with_the_same_draws_they_keep_the_same_elements_and_scale_them_alike(
    name: str, theirs: Mapping[str, torch.Tensor]
) -> None:
    case = CASES[name]
    for tensor in case.tensors:
        torch.testing.assert_close(ours(case, tensor, "F64"), theirs[f"{name}/{tensor}"], rtol=0, atol=1e-6)


def test_of_equal_magnitudes_they_keep_as_many(theirs: Mapping[str, torch.Tensor]) -> None:
    """bfloat16 models differ by few steps; where the results are not equal, a magnitude is that of the cut."""
    case, held = CASES["ties, bf16"], models()
    for tensor in case.tensors:
        base = held[f"short/base/{tensor}"].double()
        sizes = [(held[f"short/{name}/{tensor}"].double() - base).abs() for name in case.names]
        cuts = [size.reshape(-1).sort(descending=True).values[size.numel() // 2 - 1] for size in sizes]
        at_a_cut = torch.stack([size == cut for size, cut in zip(sizes, cuts, strict=True)]).any(0)
        found, expected = ours(case, tensor, "F64"), theirs[f"ties, bf16/{tensor}"]
        assert torch.equal(found[~at_a_cut], expected[~at_a_cut])
