"""VeRA and PVeRA: shared projections, saved or drawn again; what cannot be known is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from builder.weights.methods.vera import Drawn
from builder.weights.stream import CPU
from tests.workshop import DOWN, HIDDEN, INNER, QUERY, Workshop, llama

if TYPE_CHECKING:
    from collections.abc import Callable

GENERATOR = torch.Generator().manual_seed(5)
TYPE = {"peft_type": "VERA", "r": 3}
LEAVES = {
    "vera_A": torch.randn(3, INNER, generator=GENERATOR),
    "vera_B": torch.randn(HIDDEN, 3, generator=GENERATOR),
    f"{QUERY}.vera_lambda_d": torch.randn(3, generator=GENERATOR),
    f"{QUERY}.vera_lambda_b": torch.randn(HIDDEN, generator=GENERATOR),
    f"{DOWN}.vera_lambda_d": torch.randn(3, generator=GENERATOR),
    f"{DOWN}.vera_lambda_b": torch.randn(HIDDEN, generator=GENERATOR),
}
DRAWN = "PEFT draws them again, and rounds them to the dtype in which the base is loaded"
MEANS = {
    name.replace("vera_", "pvera_"): torch.cat([tensor, tensor + 1]) if name.endswith(("_A", "_d")) else tensor
    for name, tensor in LEAVES.items()
}


@pytest.mark.parametrize(("leaves", "kind"), [(LEAVES, "VERA"), (MEANS, "PVERA")], ids=["vera", "pvera"])
@pytest.mark.parametrize(("module", "columns"), [(QUERY, HIDDEN), (DOWN, INNER)])
def test_a_part_of_the_product_is_added(
    take: Callable[..., Any],
    change: Callable[..., Any],
    *,
    leaves: dict[str, torch.Tensor],
    kind: str,
    module: str,
    columns: int,
) -> None:
    effect = take(leaves, **TYPE | {"peft_type": kind})[f"{module}.weight"].effect
    weight = torch.randn(HIDDEN, columns, dtype=torch.float64)
    inner, outer = LEAVES[f"{module}.vera_lambda_d"].double(), LEAVES[f"{module}.vera_lambda_b"].double()
    down, up = LEAVES["vera_A"].double()[:, :columns], LEAVES["vera_B"].double()
    expected = weight + outer.diag() @ up @ inner.diag() @ down
    assert torch.allclose(change(effect, weight), expected, rtol=1e-13)
    part = change(effect, weight, rows=slice(2, 5), columns=slice(1, 7))
    assert torch.allclose(part, expected[2:5, 1:7], rtol=1e-13)


def test_projections_are_drawn_for_the_largest_modules(take: Callable[..., Any], shop: Workshop) -> None:
    leaves = {name: tensor for name, tensor in LEAVES.items() if "lambda" in name}
    model = shop.model(llama(dtype=torch.float32))
    found = take(leaves, model=model, **TYPE, save_projection=False, projection_prng_key=7)
    drawn = Drawn(seed=7, down=(3, INNER), up=(HIDDEN, 3))
    assert {applied.effect.projections for applied in found.values()} == {drawn}
    down, up = drawn.load(CPU)
    generator = torch.Generator().manual_seed(7)
    for values, width in ((down, INNER), (up, 3)):
        bound = (6 / width) ** 0.5
        expected = torch.rand(values.shape, generator=generator) * 2 * bound - bound
        assert torch.allclose(values, expected.double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        ({f"{QUERY}.vera_lambda_d": None}, {}, f"tensor '{{0}}{QUERY}.vera_lambda_b' has no vera_lambda_d beside it"),
        (
            {f"{QUERY}.vera_lambda_d": torch.ones(6)},
            {},
            f"tensor '{{0}}{QUERY}.vera_lambda_d' is [6], VERA on {QUERY} needs [3]",
        ),
        (
            {f"{DOWN}.vera_lambda_b": torch.ones(INNER)},
            {},
            f"tensor '{{0}}{DOWN}.vera_lambda_b' is [12], VERA on {DOWN} needs [8]",
        ),
        ({"vera_A": None}, {}, "the adapter has no vera_A, which all its modules share"),
        ({"vera_A": torch.ones(3, HIDDEN)}, {}, f"vera_A is [3, 8], {QUERY} needs [3, 12]"),
        ({"vera_B": torch.ones(INNER, 3)}, {}, f"vera_B is [12, 3], {QUERY} needs [8, 3]"),
        (
            {},
            {"save_projection": False},
            "the adapter has vera_A, which save_projection = False says it has not",
        ),
        (
            {"vera_A": None, "vera_B": None},
            {"save_projection": False},
            f"vera_A and vera_B were not saved: {DRAWN}",
        ),
        ({}, {"save_projection": "no"}, "save_projection = 'no' is neither true nor false"),
        ({}, {"use_magic": 1}, "use_magic = 1 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused(
    refusal: Callable[..., str], change: dict[str, torch.Tensor | None], config: dict[str, object], what: str
) -> None:
    assert refusal(LEAVES | change, **TYPE | config) == what.format("base_model.model.")


def test_a_seed_must_be_one(refusal: Callable[..., str], shop: Workshop) -> None:
    leaves = {name: tensor for name, tensor in LEAVES.items() if "lambda" in name}
    model = shop.model(llama(dtype=torch.float32))
    said = refusal(leaves, model=model, **TYPE, save_projection=False, projection_prng_key=0.5)
    assert said == "projection_prng_key = 0.5 is no seed"
