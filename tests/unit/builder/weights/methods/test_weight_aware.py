"""DEFT and PEANuT: what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.workshop import DOWN, HIDDEN, INNER

if TYPE_CHECKING:
    from tests.unit.builder.weights.methods.conftest import Refusal

DEFT = {"peft_type": "DEFT", "lora_alpha": None, "r": 3, "decomposition_method": "qr"}
DEFT_LEAVES = {f"{DOWN}.deft_P": torch.ones(HIDDEN, 3), f"{DOWN}.deft_R": torch.ones(3, INNER)}
PEANUT = {"peft_type": "PEANUT", "lora_alpha": None, "r": 2, "depth": 1, "act_fn": "relu", "scaling": 1.0}
PEANUT_LEAVES = {
    f"{DOWN}.peanut_A.weight": torch.ones(2, HIDDEN),
    f"{DOWN}.peanut_B.weight": torch.ones(HIDDEN, 2),
    f"{DOWN}.peanut_encoders.0.weight": torch.ones(2, 2),
    f"{DOWN}.peanut_decoders.0.weight": torch.ones(2, 2),
}


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        ({"R": None}, {}, f"tensor 'base_model.model.{DOWN}.deft_P' has no deft_R beside it"),
        (
            {},
            {"para": True},
            f"tensor 'base_model.model.{DOWN}.deft_R' has no place in a DEFT adapter of this configuration",
        ),
        ({}, {"r": 4}, f"tensor 'base_model.model.{DOWN}.deft_P' is [8, 3], DEFT on {DOWN} needs [8, 4]"),
        (
            {"R": torch.ones(3, HIDDEN)},
            {},
            (
                f"tensor 'base_model.model.{DOWN}.deft_P' and its other factor make [8, 8]; "
                f"{DOWN}.weight is BF16 [8, 12]"
            ),
        ),
        ({}, {"decomposition_method": "svd"}, "decomposition_method = 'svd' is not known"),
        ({}, {"alpha": "3"}, "alpha '3' is no number"),
        ({}, {"subspaces": 2}, "subspaces = 2 cannot be folded: this tool does not know what it means"),
    ],
)
def test_deft_that_does_not_fit_is_refused(
    change: dict[str, torch.Tensor | None], config: dict[str, object], what: str, refusal: Refusal
) -> None:
    leaves = DEFT_LEAVES | {f"{DOWN}.deft_{leaf}": tensor for leaf, tensor in change.items()}
    assert refusal(leaves, **DEFT | config) == what


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        ({"B": None}, {}, f"tensor 'base_model.model.{DOWN}.peanut_A.weight' has no peanut_B.weight beside it"),
        (
            {},
            {"depth": 0},
            (
                f"tensor 'base_model.model.{DOWN}.peanut_decoders.0.weight' has no place in a PEANUT adapter of this "
                "configuration"
            ),
        ),
        (
            {},
            {"depth": 2},
            f"tensor 'base_model.model.{DOWN}.peanut_A.weight' has no peanut_encoders.1.weight beside it",
        ),
        ({}, {"depth": -1}, "depth -1 is no whole number from 1"),
        (
            {"encoders.0": torch.ones(2, 3)},
            {},
            f"tensor 'base_model.model.{DOWN}.peanut_encoders.0.weight' is [2, 3], PEANUT on {DOWN} needs [2, 2]",
        ),
        ({}, {"act_fn": "prelu"}, "act_fn = 'prelu' is not known"),
        ({}, {"gate": True}, "gate = True cannot be folded: this tool does not know what it means"),
    ],
)
def test_peanut_that_does_not_fit_is_refused(
    change: dict[str, torch.Tensor | None], config: dict[str, object], what: str, refusal: Refusal
) -> None:
    leaves = PEANUT_LEAVES | {f"{DOWN}.peanut_{leaf}.weight": tensor for leaf, tensor in change.items()}
    assert refusal(leaves, **PEANUT | config) == what
