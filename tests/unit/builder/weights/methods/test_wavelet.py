"""WaveFT: what it adds to a weight, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.methods.wavelet_filters import LOW_PASS
from builder.weights.stream import CPU
from tests.workshop import DOWN, HIDDEN, INNER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.effect import Applied

WAVEFT = {"peft_type": "WAVEFT", "lora_alpha": None, "r": None}
SPECTRUM = f"{DOWN}.waveft_spectrum"


def added(effects: dict[str, Applied]) -> torch.Tensor:
    ((_, applied),) = effects.items()
    total = torch.zeros(HIDDEN, INNER, dtype=torch.float64)
    applied.apply(applied.effect.load(CPU), total, total, 0)
    return total


def test_places_are_the_first_of_a_permutation(take: Callable[..., dict[str, Applied]]) -> None:
    config = {**WAVEFT, "n_frequency": 3, "use_idwt": False, "scaling": 2.0, "random_loc_seed": 11}
    found = added(take({SPECTRUM: torch.tensor([1.0, 2.0, 3.0])}, **config))
    places = torch.randperm(HIDDEN * INNER, generator=torch.Generator().manual_seed(11))[:3]
    expected = torch.zeros(HIDDEN * INNER, dtype=torch.float64)
    expected[places] = torch.tensor([2.0, 4.0, 6.0], dtype=torch.float64)
    assert torch.equal(found, expected.view(HIDDEN, INNER))


def test_a_coefficient_of_haar_fills_a_square_of_four(take: Callable[..., dict[str, Applied]]) -> None:
    found = added(take({SPECTRUM: torch.tensor([1.0])}, **WAVEFT, n_frequency=1, scaling=6.0))
    place = int(torch.randperm(HIDDEN * INNER, generator=torch.Generator().manual_seed(777))[0])
    row, column = divmod(place, INNER)
    below, right = row >= HIDDEN // 2, column >= INNER // 2
    square = torch.ones(2, 2, dtype=torch.float64) * 3.0
    square[1] *= -1 if right else 1
    square[:, 1] *= -1 if below else 1
    top, left = row % (HIDDEN // 2) * 2, column % (INNER // 2) * 2
    assert torch.allclose(found[top : top + 2, left : left + 2], square)
    assert int((found != 0).sum()) == 4


@pytest.mark.parametrize("name", LOW_PASS)
def test_every_filter_has_an_even_length_and_a_norm_near_one(name: str) -> None:
    assert len(LOW_PASS[name]) % 2 == 0
    assert abs(sum(value * value for value in LOW_PASS[name]) - 1) < 0.01


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        ({}, {"n_frequency": 4}, f"tensor 'base_model.model.{SPECTRUM}' is [3], WAVEFT on {DOWN} needs [4]"),
        (
            {},
            {"n_frequency_pattern": {"down_proj": 2}},
            f"tensor 'base_model.model.{SPECTRUM}' is [3], WAVEFT on {DOWN} needs [2]",
        ),
        ({}, {"n_frequency": None}, f"tensor 'base_model.model.{SPECTRUM}' holds 2592 coefficients, {DOWN} is [8, 12]"),
        (
            {SPECTRUM: torch.ones(97)},
            {"proportional_parameters": True},
            f"tensor 'base_model.model.{SPECTRUM}' holds 97 coefficients, {DOWN} is [8, 12]",
        ),
        (
            {SPECTRUM: torch.ones(3, 1)},
            {"proportional_parameters": True},
            f"tensor 'base_model.model.{SPECTRUM}' is [3, 1], WAVEFT on {DOWN} needs [3]",
        ),
        ({}, {"random_loc_seed": 0.5}, "random_loc_seed = 0.5 is no seed"),
        (
            {},
            {"wavelet_family": "coif5"},
            "wavelet_family = 'coif5' cannot be folded: PEFT has no filter of that name and its length",
        ),
        (
            {},
            {"wavelet_family": ["db1"]},
            "wavelet_family = ['db1'] cannot be folded: PEFT has no filter of that name and its length",
        ),
        ({}, {"scaling": "25"}, "scaling '25' is no number"),
        ({}, {"levels": 2}, "levels = 2 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    refusal: Callable[..., str], leaves: Mapping[str, torch.Tensor], config: dict[str, object], what: str
) -> None:
    plain: dict[str, torch.Tensor | None] = {SPECTRUM: torch.ones(3)}
    assert refusal(plain | leaves, **{**WAVEFT, "n_frequency": 3, **config}) == what
