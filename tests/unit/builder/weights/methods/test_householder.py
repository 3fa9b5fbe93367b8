"""HRA: what it does to a weight, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.stream import CPU
from registry.errors import InvalidError
from tests.workshop import HIDDEN, QUERY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.effect import Applied

HRA = {"peft_type": "HRA", "lora_alpha": None}
VECTORS = f"{QUERY}.hra_u"


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_inputs_are_reflected_one_after_the_other(take: Callable[..., dict[str, Applied]], *, orthogonal: bool) -> None:
    vectors, weight = draw(HIDDEN, 3), draw(5, HIDDEN)
    (applied,) = take({VECTORS: vectors}, **HRA, r=3, apply_GS=orthogonal).values()
    found = weight.clone()
    applied.apply(applied.effect.load(CPU), found, found, 0)
    units = torch.linalg.qr(vectors).Q if orthogonal else vectors
    expected = weight
    for unit in units.T:
        expected = expected - 2 * torch.outer(expected @ unit, unit) / (unit @ unit)
    assert torch.allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        (
            {VECTORS: torch.ones(HIDDEN, 2)},
            {"r": 3},
            f"tensor 'base_model.model.{VECTORS}' is [8, 2], HRA on {QUERY} needs [8, 3]",
        ),
        (
            {VECTORS: torch.ones(6, 2)},
            {},
            f"tensor 'base_model.model.{VECTORS}' is [6, 2], HRA on {QUERY} needs [8, 2]",
        ),
        ({VECTORS: torch.ones(HIDDEN, 2)}, {"apply_GS": 1}, "apply_GS = 1 is neither true nor false"),
        (
            {VECTORS: torch.ones(HIDDEN, 2)},
            {"hra_dropout": 0.1},
            "hra_dropout = 0.1 cannot be folded: this tool does not know what it means",
        ),
        (
            {f"{QUERY}.hra_v": torch.ones(HIDDEN, 2)},
            {},
            f"tensor 'base_model.model.{QUERY}.hra_v' is no part of a HRA adapter",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    refusal: Callable[..., str], leaves: Mapping[str, torch.Tensor], config: dict[str, object], what: str
) -> None:
    assert refusal(leaves, **{**HRA, "r": 2, **config}) == what


@pytest.mark.parametrize(
    ("vectors", "orthogonal", "what"),
    [
        (torch.tensor([[1.0, 0.0]] * HIDDEN), False, "column 1 of tensor {} is zero: it reflects nothing"),
        (
            draw(HIDDEN, 1).repeat(1, 2),
            True,
            "column 1 of tensor {} is zero, or depends on those before it: it reflects nothing",
        ),
    ],
)
def test_vectors_without_a_direction_are_refused(
    take: Callable[..., dict[str, Applied]], vectors: torch.Tensor, what: str, *, orthogonal: bool
) -> None:
    (applied,) = take({VECTORS: vectors}, **HRA, r=2, apply_GS=orthogonal).values()
    with pytest.raises(InvalidError) as caught:
        applied.effect.load(CPU)
    assert caught.value.what == what.format(f"'base_model.model.{VECTORS}'")


def test_the_pairs_that_peft_starts_with_change_nothing(take: Callable[..., dict[str, Applied]]) -> None:
    (applied,) = take({VECTORS: draw(HIDDEN, 2).repeat_interleave(2, dim=1)}, **HRA, r=4).values()
    weight = draw(5, HIDDEN)
    found = weight.clone()
    applied.apply(applied.effect.load(CPU), found, found, 0)
    assert torch.allclose(found, weight, atol=1e-14)
