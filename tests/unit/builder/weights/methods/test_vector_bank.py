"""VB-LoRA and Uni-LoRA: what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.effect import Block
from builder.weights.stream import CPU
from registry.errors import InvalidError
from tests.workshop import DOWN, HIDDEN, INNER, QUERY

if TYPE_CHECKING:
    from tests.unit.builder.weights.methods.conftest import Refusal, Take

VB = {"peft_type": "VBLORA", "r": 2, "lora_alpha": None, "num_vectors": 5, "vector_length": 4, "topk": 2}
VB_LEAVES = {
    "vblora_vector_bank": torch.arange(20.0).view(5, 4),
    f"{DOWN}.vblora_logits_A": torch.arange(30.0).view(2, 3, 5),
    f"{DOWN}.vblora_logits_B": torch.arange(20.0).view(2, 2, 5),
}
UNI = {"peft_type": "UNILORA", "r": 2, "lora_alpha": None, "theta_d_length": 3, "save_indices": True, "proj_seed": 1}
UNI_LEAVES = {
    "unilora_theta_d": torch.ones(3),
    f"{DOWN}.unilora_indices_A": torch.ones(2, INNER, dtype=torch.int64),
    f"{DOWN}.unilora_indices_B": torch.ones(HIDDEN, 2, dtype=torch.int64),
    f"{DOWN}.unilora_scales_A": torch.ones(2, INNER),
    f"{DOWN}.unilora_scales_B": torch.ones(HIDDEN, 2),
}


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        (
            {f"{DOWN}.vblora_logits_A": None},
            {},
            f"tensor 'base_model.model.{DOWN}.vblora_logits_B' has no vblora_logits_A beside it",
        ),
        ({"vblora_vector_bank": None}, {}, "the adapter has no vblora_vector_bank, which all its modules share"),
        (
            {"vblora_vector_bank": torch.ones(4, 4)},
            {},
            f"vblora_vector_bank is [4, 4], {DOWN} needs [5, 4]",
        ),
        (
            {},
            {"vector_length": 5},
            (
                f"tensor 'base_model.model.{DOWN}.vblora_logits_A' is on {DOWN}, whose 8 x 12 is not divided by "
                "vector_length 5"
            ),
        ),
        (
            {},
            {"r": 3},
            f"tensor 'base_model.model.{DOWN}.vblora_logits_A' is [2, 3, 5], VBLORA on {DOWN} needs [3, 3, 5]",
        ),
        (
            {},
            {"save_only_topk_weights": True},
            f"tensor 'base_model.model.{DOWN}.vblora_logits_A' has no vblora_logits_A_topk_indices beside it",
        ),
        (
            {f"{DOWN}.vblora_logits_A_topk_weights": torch.ones(2, 3, 1)},
            {},
            (
                f"tensor 'base_model.model.{DOWN}.vblora_logits_A_topk_weights' has no place in a VBLORA adapter of "
                "this configuration"
            ),
        ),
        ({}, {"topk": 0}, "topk 0 is no whole number from 1"),
        ({}, {"temperature": 0.5}, "temperature = 0.5 cannot be folded: this tool does not know what it means"),
    ],
)
def test_vblora_that_does_not_fit_is_refused(
    change: dict[str, torch.Tensor | None], config: dict[str, object], what: str, refusal: Refusal
) -> None:
    assert refusal(VB_LEAVES | change, **VB | config) == what


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        (
            {f"{DOWN}.unilora_scales_B": None},
            {},
            f"tensor 'base_model.model.{DOWN}.unilora_indices_A' has no unilora_scales_B beside it",
        ),
        ({"unilora_theta_d": None}, {}, "the adapter has no unilora_theta_d, which all its modules share"),
        ({}, {"theta_d_length": 4}, f"unilora_theta_d is [3], {DOWN} needs [4]"),
        (
            {},
            {"r": 4},
            f"tensor 'base_model.model.{DOWN}.unilora_indices_A' is [2, 12], UNILORA on {DOWN} needs [4, 12]",
        ),
        (
            {f"{DOWN}.unilora_indices_A": torch.ones(2, HIDDEN, dtype=torch.int64)},
            {},
            (
                f"tensor 'base_model.model.{DOWN}.unilora_indices_A' and its other factor make [8, 8]; "
                f"{DOWN}.weight is BF16 [8, 12]"
            ),
        ),
        (
            dict.fromkeys((name for name in UNI_LEAVES if name != "unilora_theta_d"), None),
            {},
            "the adapter has no tensor of any module",
        ),
        ({}, {"mixing": "all"}, "mixing = 'all' cannot be folded: this tool does not know what it means"),
    ],
)
def test_unilora_that_does_not_fit_is_refused(
    change: dict[str, torch.Tensor | None], config: dict[str, object], what: str, refusal: Refusal
) -> None:
    assert refusal(UNI_LEAVES | change, **UNI | config) == what


def test_a_place_outside_the_vector_is_refused_when_it_is_read(take: Take) -> None:
    outside = {f"{DOWN}.unilora_indices_A": torch.full((2, INNER), 3)}
    (applied,) = take(UNI_LEAVES | outside, **UNI).values()
    with pytest.raises(InvalidError) as caught:
        applied.effect.load(CPU)
    assert caught.value.what == (
        f"tensor 'base_model.model.{DOWN}.unilora_indices_A' holds other than whole numbers from 0 to below 3"
    )


def test_of_equal_logits_the_first_count(take: Take) -> None:
    """torch's topk takes either; two machines must take the same."""
    leaves = {
        "vblora_vector_bank": torch.diag(torch.arange(1.0, 5)),
        f"{QUERY}.vblora_logits_A": torch.zeros(1, 2, 4),
        f"{QUERY}.vblora_logits_B": torch.zeros(2, 1, 4),
    }
    (applied,) = take(leaves, **VB | {"r": 1, "num_vectors": 4, "topk": 1}).values()
    weight = torch.zeros(HIDDEN, HIDDEN, dtype=torch.float64)
    applied.effect.load(CPU).apply(weight, weight, Block(slice(0, HIDDEN), slice(0, HIDDEN)), 1.0)
    first = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)
    assert torch.equal(weight, torch.outer(first, first))
