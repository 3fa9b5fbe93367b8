"""LoHa: the element-wise product of two products; what does not fit is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.workshop import DOWN, HIDDEN, INNER, Workshop

if TYPE_CHECKING:
    from collections.abc import Callable

GENERATOR = torch.Generator().manual_seed(5)
LEAVES = {
    f"{DOWN}.hada_w1_a": torch.randn(HIDDEN, 3, generator=GENERATOR),
    f"{DOWN}.hada_w1_b": torch.randn(3, INNER, generator=GENERATOR),
    f"{DOWN}.hada_w2_a": torch.randn(HIDDEN, 3, generator=GENERATOR),
    f"{DOWN}.hada_w2_b": torch.randn(3, INNER, generator=GENERATOR),
}
TYPE = {"peft_type": "LOHA", "r": 3}


def test_a_part_of_the_product_is_added(take: Callable[..., Any], change: Callable[..., Any]) -> None:
    ((name, applied),) = take(LEAVES, **TYPE, alpha=5).items()
    weight = torch.randn(HIDDEN, INNER, dtype=torch.float64)
    first_up, first_down, second_up, second_down = (tensor.double() for tensor in LEAVES.values())
    expected = weight + 5 / 3 * (first_up @ first_down) * (second_up @ second_down)
    assert name == f"{DOWN}.weight"
    assert torch.allclose(change(applied.effect, weight), expected, rtol=1e-13)
    part = change(applied.effect, weight, rows=slice(2, 5), columns=slice(1, 7))
    assert torch.allclose(part, expected[2:5, 1:7], rtol=1e-13)


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        ({"w2_b": None}, {}, "tensor '{0}w1_a' has no hada_w2_b beside it"),
        ({"w1_a": None}, {}, "tensor '{0}w1_b' has no hada_w1_a beside it"),
        ({"w2_a": torch.ones(HIDDEN, 4)}, {}, f"tensor '{{0}}w2_a' is [8, 4], LOHA on {DOWN} needs [8, 3]"),
        ({"w1_b": torch.ones(3)}, {}, f"tensor '{{0}}w1_b' is [3], LOHA on {DOWN} needs [3, 12]"),
        (
            {"w1_a": torch.ones(INNER, 3)},
            {},
            f"tensor '{{0}}w1_a' and its other factor make [12, 12]; {DOWN}.weight is BF16 [8, 12]",
        ),
        ({"t1": torch.ones(3, 3, 1, 1)}, {}, "tensor '{0}t1' has no place in a LOHA adapter of this configuration"),
        ({"w3_a": torch.ones(3, 3)}, {}, "tensor '{0}w3_a' is no part of a LOHA adapter"),
        ({}, {"rank_pattern": {"down_proj": 2}}, f"tensor '{{0}}w1_a' is [8, 3], LOHA on {DOWN} needs [8, 2]"),
        ({}, {"alpha": "1"}, f"alpha '1' of {DOWN} is no number"),
        ({}, {"lora_alpha": 2}, "lora_alpha = 2 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused(
    refusal: Callable[..., str], change: dict[str, torch.Tensor | None], config: dict[str, object], what: str
) -> None:
    leaves = LEAVES | {f"{DOWN}.hada_{leaf}": tensor for leaf, tensor in change.items()}
    assert refusal(leaves, **TYPE | config) == what.format(f"base_model.model.{DOWN}.hada_")


def test_conv1d_is_refused(refusal: Callable[..., str], shop: Workshop) -> None:
    module = "transformer.h.0.mlp.c_proj"
    tensors = {"transformer.wte.weight": torch.ones(16, HIDDEN), f"{module}.weight": torch.ones(INNER, HIDDEN)}
    leaves = {name.replace(DOWN, module): tensor for name, tensor in LEAVES.items()}
    assert refusal(leaves, model=shop.model(tensors, model_type="gpt2"), **TYPE) == (
        f"tensor 'base_model.model.{module}.hada_w1_a' is on {module}, a Conv1D; PEFT has no LOHA for those"
    )
