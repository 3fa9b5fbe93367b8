"""SHiRA and Super-Tuning: what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.stream import CPU
from registry.errors import InvalidError
from tests.workshop import DOWN, HIDDEN, INNER, QUERY

if TYPE_CHECKING:
    from tests.unit.builder.weights.methods.conftest import Refusal, Take

SHIRA = {"peft_type": "SHIRA", "r": 1, "lora_alpha": None, "mask_type": "random", "random_seed": 4}
SUPER = {
    "peft_type": "SUPERTUNING",
    "r": None,
    "lora_alpha": None,
    "sparsity": 0.9,
    "select_top": True,
    "save_precomputed_indices": True,
}
COUNT = HIDDEN + INNER
PLACES = torch.stack([torch.arange(COUNT) % HIDDEN, torch.arange(COUNT) % INNER]).to(torch.int32)
SHIRA_LEAVES = {f"{DOWN}.shira_weight": torch.ones(COUNT), f"{DOWN}.shira_indices": PLACES}
SUPER_LEAVES = {
    f"{QUERY}.supertuning_values": torch.ones(6),
    f"{QUERY}.supertuning_indices": torch.arange(6, dtype=torch.int32),
}


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        ({"indices": None}, {}, f"tensor 'base_model.model.{DOWN}.shira_weight' has no shira_indices beside it"),
        ({"weight": None}, {}, f"tensor 'base_model.model.{DOWN}.shira_indices' has no shira_weight beside it"),
        ({}, {"r": 2}, f"tensor 'base_model.model.{DOWN}.shira_indices' is [2, 20], SHIRA on {DOWN} needs [2, 40]"),
        (
            {"weight": torch.ones(1, COUNT)},
            {},
            f"tensor 'base_model.model.{DOWN}.shira_weight' is [1, 20], SHIRA on {DOWN} needs [20]",
        ),
        (
            {"weight": torch.ones(COUNT, dtype=torch.int32)},
            {},
            f"tensor 'base_model.model.{DOWN}.shira_weight' is I32 [20], no floats",
        ),
        ({}, {"bias": "all", "blocks": 3}, "blocks = 3 cannot be folded: this tool does not know what it means"),
    ],
)
def test_shira_that_does_not_fit_is_refused(
    change: dict[str, torch.Tensor | None], config: dict[str, object], what: str, refusal: Refusal
) -> None:
    leaves = SHIRA_LEAVES | {f"{DOWN}.shira_{leaf}": tensor for leaf, tensor in change.items()}
    assert refusal(leaves, **SHIRA | config) == what


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        (
            {"indices": None},
            {},
            f"tensor 'base_model.model.{QUERY}.supertuning_values' has no supertuning_indices beside it",
        ),
        (
            {},
            {"sparsity": 0.5},
            f"tensor 'base_model.model.{QUERY}.supertuning_indices' is [6], SUPERTUNING on {QUERY} needs [32]",
        ),
        ({}, {"sparsity": "much"}, "sparsity 'much' is no number"),
        (
            {},
            {"r": 2},
            f"tensor 'base_model.model.{QUERY}.supertuning_indices' has no supertuning_lora_A.weight beside it",
        ),
        (
            {"lora_A.weight": torch.ones(2, HIDDEN)},
            {},
            (
                f"tensor 'base_model.model.{QUERY}.supertuning_lora_A.weight' has no place in a SUPERTUNING adapter "
                "of this configuration"
            ),
        ),
        (
            {},
            {"save_precomputed_indices": None},
            (
                "save_precomputed_indices = None cannot be folded: the places of its values are not saved, and among "
                "equal magnitudes of the base PEFT's choice is open"
            ),
        ),
    ],
)
def test_supertuning_that_does_not_fit_is_refused(
    change: dict[str, torch.Tensor | None], config: dict[str, object], what: str, refusal: Refusal
) -> None:
    leaves = SUPER_LEAVES | {f"{QUERY}.supertuning_{leaf}": tensor for leaf, tensor in change.items()}
    assert refusal(leaves, **SUPER | config) == what


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        (
            SHIRA_LEAVES | {f"{DOWN}.shira_indices": PLACES.flip(0)},
            SHIRA,
            f"tensor 'base_model.model.{DOWN}.shira_indices' holds other than whole numbers from 0 to below 8 and 12",
        ),
        (
            SHIRA_LEAVES | {f"{DOWN}.shira_indices": PLACES + 0.5},
            SHIRA,
            f"tensor 'base_model.model.{DOWN}.shira_indices' holds other than whole numbers from 0 to below 8 and 12",
        ),
        (
            SUPER_LEAVES | {f"{QUERY}.supertuning_indices": torch.arange(-1, 5)},
            SUPER,
            f"tensor 'base_model.model.{QUERY}.supertuning_indices' holds other than whole numbers from 0 to below 64",
        ),
    ],
)
def test_bad_places_are_refused_when_they_are_read(
    leaves: dict[str, torch.Tensor], config: dict[str, object], what: str, take: Take
) -> None:
    (applied,) = take(leaves, **config).values()
    with pytest.raises(InvalidError) as caught:
        applied.effect.load(CPU)
    assert caught.value.what == what
