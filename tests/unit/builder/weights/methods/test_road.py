"""RoAd: what it does to a weight and a bias, and what is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.stream import CPU
from tests.workshop import HIDDEN, QUERY, Workshop, llama

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.weights.effect import Applied

ROAD = {"peft_type": "ROAD", "lora_alpha": None, "r": None}
ANGLES, SCALES = f"{QUERY}.road_theta", f"{QUERY}.road_alpha"


def test_a_quarter_turn_swaps_the_halves_of_groups(shop: Workshop, take: Callable[..., dict[str, Applied]]) -> None:
    model = shop.model(llama() | {f"{QUERY}.bias": torch.ones(HIDDEN)})
    leaves = {ANGLES: torch.full((HIDDEN // 2,), math.pi / 2), SCALES: torch.full((HIDDEN // 2,), 3.0)}
    effects = take(leaves, model=model, **ROAD, group_size=4)
    assert effects.keys() == {f"{QUERY}.weight", f"{QUERY}.bias"}
    weight = torch.arange(HIDDEN, dtype=torch.float64)[:, None].repeat(1, 2)
    expected = 3 * torch.tensor([-2.0, -3.0, 0.0, 1.0, -6.0, -7.0, 4.0, 5.0], dtype=torch.float64)
    for name, seen in ((f"{QUERY}.weight", weight.clone()), (f"{QUERY}.bias", weight[:, :1].T.clone())):
        applied = effects[name]
        applied.apply(applied.effect.load(CPU), seen, seen, 0)
        assert torch.allclose(seen.reshape(HIDDEN, -1) if seen.shape[0] > 1 else seen.T, expected[:, None], atol=1e-6)


def test_without_a_bias_only_the_weight_is_turned(take: Callable[..., dict[str, Applied]]) -> None:
    effects = take({ANGLES: torch.ones(HIDDEN), SCALES: torch.ones(HIDDEN)}, **ROAD, variant="road_2", group_size=4)
    assert effects.keys() == {f"{QUERY}.weight"}
    assert effects[f"{QUERY}.weight"].rows == 4
    assert not effects[f"{QUERY}.weight"].whole


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        ({SCALES: None}, {}, f"tensor 'base_model.model.{ANGLES}' has no road_alpha beside it"),
        ({ANGLES: None}, {}, f"tensor 'base_model.model.{SCALES}' has no road_theta beside it"),
        ({}, {"variant": "road_2"}, f"tensor 'base_model.model.{ANGLES}' is [4], ROAD on {QUERY} needs [8]"),
        ({}, {"variant": "road_4"}, f"tensor 'base_model.model.{ANGLES}' is [4], ROAD on {QUERY} needs [16]"),
        ({}, {"variant": "road_3"}, "variant = 'road_3' is not known"),
        ({}, {"group_size": None}, f"group_size 64 does not divide the 8 outputs of {QUERY} into pairs"),
        ({}, {"group_size": 1}, f"group_size 1 does not divide the 8 outputs of {QUERY} into pairs"),
        ({}, {"group_size": 0}, "group_size 0 is no whole number from 1"),
        ({}, {"scale": 2}, "scale = 2 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    refusal: Callable[..., str], leaves: Mapping[str, torch.Tensor], config: dict[str, object], what: str
) -> None:
    plain: dict[str, torch.Tensor | None] = {ANGLES: torch.ones(HIDDEN // 2), SCALES: torch.ones(HIDDEN // 2)}
    assert refusal(plain | leaves, **{**ROAD, "group_size": 4, **config}) == what
