"""FRoD: a basis without an inverse, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.effect import Block
from builder.weights.stream import CPU
from registry.errors import InvalidError
from tests.workshop import DOWN, HIDDEN, INNER

if TYPE_CHECKING:
    from tests.unit.builder.weights.methods.conftest import Refusal, Take

FROD = {"peft_type": "FROD", "r": None, "lora_alpha": None, "save_projection": True, "sparse_rate": 0.02}
ROLE = "mlp_down_proj"
LEAVES = {
    f"{DOWN}.frod_lambda_l": torch.ones(INNER),
    f"{DOWN}.frod_lambda_s_values": torch.ones(2),
    f"frod_V.{ROLE}": torch.eye(INNER),
    f"frod_s_indices.{ROLE}": torch.tensor([[0, 1], [1, 0]]),
    f"frod_s_size.{ROLE}": torch.tensor([INNER, INNER]),
}


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        (
            {f"{DOWN}.frod_lambda_l": None},
            {},
            f"tensor 'base_model.model.{DOWN}.frod_lambda_s_values' has no frod_lambda_l beside it",
        ),
        (
            {f"{DOWN}.frod_lambda_s_values": torch.ones(3)},
            {},
            f"tensor 'base_model.model.{DOWN}.frod_lambda_s_values' is [3], FROD on {DOWN} needs [2]",
        ),
        ({f"frod_V.{ROLE}": None}, {}, f"the adapter has no frod_V.{ROLE}, which all its modules share"),
        ({f"frod_V.{ROLE}": torch.eye(8)}, {}, f"frod_V.{ROLE} is [8, 8], {DOWN} needs [12, 12]"),
        (
            {f"frod_s_size.{ROLE}": torch.tensor([INNER, HIDDEN])},
            {},
            f"frod_s_size.{ROLE} says [12, 8], {DOWN} needs [12, 12]",
        ),
        ({}, {"orthogonal": True}, "orthogonal = True cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    change: dict[str, torch.Tensor | None], config: dict[str, object], what: str, refusal: Refusal
) -> None:
    assert refusal(LEAVES | change, **FROD | config) == what


def test_an_entry_outside_the_matrix_is_refused_when_it_is_read(take: Take) -> None:
    outside = {f"frod_s_indices.{ROLE}": torch.tensor([[0, 1], [1, INNER]])}
    (applied,) = take(LEAVES | outside, **FROD).values()
    with pytest.raises(InvalidError) as caught:
        applied.effect.load(CPU)
    assert caught.value.what == (
        f"tensor 'base_model.model.frod_s_indices.{ROLE}' holds other than whole numbers from 0 to below 12 and 12"
    )


def test_without_an_inverse_only_what_the_basis_spans_is_kept(take: Take) -> None:
    basis = torch.eye(INNER)
    basis[0, 0] = 0
    change = {f"frod_V.{ROLE}": basis, f"{DOWN}.frod_lambda_s_values": torch.zeros(2)}
    (applied,) = take(LEAVES | change, **FROD).values()
    base = torch.randn(HIDDEN, INNER, generator=torch.Generator().manual_seed(2)).double()
    weight = base.clone()
    applied.effect.load(CPU).apply(weight, base, Block(slice(0, HIDDEN), slice(0, INNER)), 1.0)
    spanned = base / torch.linalg.vector_norm(base, dim=0)
    spanned[:, 0] = 0
    assert torch.allclose(weight, spanned, rtol=0, atol=2**-22)
