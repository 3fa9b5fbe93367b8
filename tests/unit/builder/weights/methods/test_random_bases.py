"""RandLoRA: what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.stream import CPU
from registry.errors import InvalidError
from tests.workshop import DOWN, HIDDEN, INNER, QUERY

if TYPE_CHECKING:
    from tests.unit.builder.weights.methods.conftest import Refusal, Take

RAND = {"peft_type": "RANDLORA", "r": 3, "lora_alpha": None, "randlora_alpha": 6, "save_projection": True}
LEAVES = {
    f"{QUERY}.randlora_gamma": torch.ones(3, HIDDEN),
    f"{QUERY}.randlora_lambda": torch.ones(3, 3),
    f"{DOWN}.randlora_gamma": torch.ones(3, HIDDEN),
    f"{DOWN}.randlora_lambda": torch.ones(3, 3),
    "randlora_A": torch.ones(3, 1, HIDDEN),
    "randlora_B": torch.ones(INNER, 3, 3),
}


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        (
            {f"{DOWN}.randlora_gamma": None},
            {},
            f"tensor 'base_model.model.{DOWN}.randlora_lambda' has no randlora_gamma beside it",
        ),
        (
            {f"{DOWN}.randlora_lambda": torch.ones(3, 2)},
            {},
            f"tensor 'base_model.model.{DOWN}.randlora_lambda' is [3, 2], RANDLORA on {DOWN} needs [3, 3]",
        ),
        ({"randlora_B": None}, {}, "the adapter has no randlora_B, which all its modules share"),
        (
            {"randlora_A": torch.ones(3, 1, INNER)},
            {},
            f"randlora_A is [3, 1, 12], {QUERY} needs [3, 1, 8]",
        ),
        (
            {f"{DOWN}.randlora_A": torch.zeros(3, 1, HIDDEN)},
            {},
            f"tensor 'base_model.model.{DOWN}.randlora_A' differs from the one that all modules share",
        ),
        (
            {},
            {"save_projection": False},
            (
                "save_projection = False cannot be folded: its random bases are not saved; what PEFT draws again from "
                "the seed depends on the version of torch, and of sparse ones on the dtype in which it loads the base"
            ),
        ),
        ({}, {"blocks": 4}, "blocks = 4 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    change: dict[str, torch.Tensor | None], config: dict[str, object], what: str, refusal: Refusal
) -> None:
    assert refusal(LEAVES | change, **RAND | config) == what


def test_bases_that_are_no_numbers_are_refused_when_they_are_read(take: Take) -> None:
    applied, _ = take(LEAVES, **RAND).values()
    large = applied.effect.large
    with large.path.open("r+b") as stream:
        stream.seek(large.info.offset)
        stream.write(torch.tensor(torch.nan).numpy().tobytes())
    with pytest.raises(InvalidError) as caught:
        applied.effect.load(CPU)
    assert caught.value.what == "tensor 'base_model.model.randlora_B' holds NaN or an infinity"
