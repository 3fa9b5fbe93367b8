"""BEFT: a vector on the bias, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.workshop import HIDDEN, QUERY, Workshop, llama

if TYPE_CHECKING:
    from tests.unit.builder.weights.methods.conftest import Refusal, Take

LEAF = f"{QUERY}.beft_bias"
BEFT = {"peft_type": "BEFT", "r": None, "lora_alpha": None}


def test_it_is_on_the_bias_alone(shop: Workshop, take: Take) -> None:
    model = shop.model(llama() | {f"{QUERY}.bias": torch.zeros(HIDDEN)})
    effects = take({LEAF: torch.ones(1, HIDDEN)}, model=model, init_weights=True, **BEFT)
    assert effects.keys() == {f"{QUERY}.bias"}


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        (
            {LEAF: torch.ones(HIDDEN)},
            {},
            f"tensor 'base_model.model.{LEAF}' is [8], BEFT on {QUERY} needs [1, 8]",
        ),
        (
            {"model.embed_tokens.beft_bias": torch.ones(1, HIDDEN)},
            {},
            (
                "tensor 'base_model.model.model.embed_tokens.beft_bias' is on model.embed_tokens, an embedding; "
                "PEFT has no BEFT for those"
            ),
        ),
        (
            {LEAF: torch.ones(1, HIDDEN)},
            {},
            f"tensor 'base_model.model.{LEAF}' changes {QUERY}.bias, which the model has not",
        ),
        (
            {LEAF: torch.ones(1, HIDDEN)},
            {"strength": 2},
            "strength = 2 cannot be folded: this tool does not know what it means",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    leaves: dict[str, torch.Tensor], config: dict[str, object], what: str, refusal: Refusal
) -> None:
    assert refusal(leaves, **BEFT, **config) == what
