"""OSF: what it does to a weight, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from builder.manifest import FoldStage
from builder.stages.fold import fold
from builder.weighting import ONE
from builder.weights.stream import CPU
from registry.errors import InvalidError
from tests.workshop import DOWN, HIDDEN, INNER, Workshop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.effect import Applied

OSF = {"peft_type": "OSF", "lora_alpha": None, "r": None}
LEFT, VALUES, RIGHT = (f"{DOWN}.osf_svd_params.{name}" for name in ("U_low", "S_low", "V_low"))
PLAIN: dict[str, torch.Tensor | None] = {
    LEFT: torch.zeros(HIDDEN, 3),
    VALUES: torch.ones(3),
    RIGHT: torch.zeros(3, INNER),
}


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_the_strong_directions_stay_and_the_weak_ones_are_replaced(take: Callable[..., dict[str, Applied]]) -> None:
    left, values, right = draw(HIDDEN, 3), draw(3), draw(3, INNER)
    (applied,) = take({LEFT: left, VALUES: values, RIGHT: right}, **OSF).values()
    base = draw(HIDDEN, INNER)
    found = base.clone()
    applied.apply(applied.effect.load(CPU), found, base, 0)
    over, strengths, under = torch.linalg.svd(base, full_matrices=False)
    strong = over[:, :5] @ torch.diag(strengths[:5]) @ under[:5]
    assert torch.allclose(found, strong + left @ torch.diag(values) @ right, atol=1e-13)
    assert applied.whole


def test_singular_values_that_are_equal_where_the_weak_part_begins_are_refused(
    take: Callable[..., dict[str, Applied]],
) -> None:
    (applied,) = take(PLAIN, **OSF).values()
    weight = torch.eye(HIDDEN, INNER, dtype=torch.float64)
    with pytest.raises(InvalidError) as caught:
        applied.apply(applied.effect.load(CPU), weight, weight, 0)
    assert caught.value.what == (
        f"tensor 'base_model.model.{LEFT}' is on a weight whose singular values 5 and 6 are equal: "
        "what it takes the place of is not determined"
    )


@pytest.mark.parametrize(("weight", "depends_on"), [(1.0, ("device", "versions")), (0.0, ())])
def test_a_fold_that_decomposes_says_that_it_depends_on_the_machine(
    shop: Workshop, weight: float, depends_on: tuple[str, ...]
) -> None:
    base = shop.model()
    leaves = {LEFT: draw(HIDDEN, 3), VALUES: draw(3), RIGHT: draw(3, INNER)}
    adapter = shop.adapter(base, {f"base_model.model.{name}": tensor for name, tensor in leaves.items()}, **OSF)
    inputs = shop.input("from", base), shop.input("adapter", adapter, name="tone", weight=weight)
    outcome = fold(shop.context(FoldStage(from_="base", adapters={"tone": ONE}), *inputs))
    assert outcome.depends_on == depends_on


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        ({VALUES: None}, {}, f"tensor 'base_model.model.{LEFT}' has no osf_svd_params.S_low beside it"),
        ({LEFT: None}, {}, f"tensor 'base_model.model.{VALUES}' has no osf_svd_params.U_low beside it"),
        ({RIGHT: None}, {}, f"tensor 'base_model.model.{VALUES}' has no osf_svd_params.V_low beside it"),
        (
            {VALUES: torch.ones(4)},
            {},
            f"tensor 'base_model.model.{LEFT}' is [8, 3], OSF on {DOWN} needs [8, 4]",
        ),
        (
            {VALUES: torch.ones(8)},
            {},
            f"tensor 'base_model.model.{VALUES}' is [8], OSF on {DOWN} needs fewer than 8 values",
        ),
        (
            {VALUES: torch.ones(3, 1)},
            {},
            f"tensor 'base_model.model.{VALUES}' is [3, 1], OSF on {DOWN} needs fewer than 8 values",
        ),
        ({}, {"bias": "osf_only", "scale": 1}, "scale = 1 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    refusal: Callable[..., str], leaves: Mapping[str, torch.Tensor], config: dict[str, object], what: str
) -> None:
    assert refusal(PLAIN | leaves, **{**OSF, **config}) == what
