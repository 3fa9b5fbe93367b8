"""GLoRA: factors and terms of weight and bias, in any form; what does not fit is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.workshop import DOWN, HIDDEN, INNER, Workshop, llama

if TYPE_CHECKING:
    from collections.abc import Callable

GENERATOR = torch.Generator().manual_seed(5)
TYPE = {"peft_type": "GLORA", "r": 2}


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def named(**leaves: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{DOWN}.glora_{name.replace('_', '.')}": tensor for name, tensor in leaves.items()}


BIASES = named(C_Xd=draw(INNER, 2), C_Xu=draw(2, 1), D_X=draw(1), E_X=draw(1))
NO_BIASES = named(C_zeros=torch.zeros(INNER, 1), D_zeros=torch.zeros(HIDDEN), E_zeros=torch.zeros(HIDDEN))
WEIGHTS = named(A_Xd=draw(HIDDEN, 2), A_Xu=draw(2, INNER), B_Xd=draw(HIDDEN, 2), B_Xu=draw(2, INNER))
BASE = llama() | {f"{DOWN}.bias": draw(HIDDEN).bfloat16()}


def test_factor_and_term_of_a_part_are_added(take: Callable[..., Any], change: Callable[..., Any]) -> None:
    ((name, applied),) = take(WEIGHTS | NO_BIASES, **TYPE).items()
    factor_up, factor_down, term_up, term_down = (tensor.double() for tensor in WEIGHTS.values())
    weight = torch.randn(HIDDEN, INNER, dtype=torch.float64)
    expected = weight + weight * (factor_up @ factor_down) + term_up @ term_down
    assert (name, applied.effect.additive) == (f"{DOWN}.weight", False)
    assert torch.allclose(change(applied.effect, weight), expected, rtol=1e-13)
    part = change(applied.effect, weight, rows=slice(2, 5), columns=slice(1, 7))
    assert torch.allclose(part, expected[2:5, 1:7], rtol=1e-13)


def test_the_bias_gets_what_the_weight_gives(
    take: Callable[..., Any], change: Callable[..., Any], shop: Workshop
) -> None:
    found = take(WEIGHTS | BIASES, model=shop.model(BASE), **TYPE)
    assert found.keys() == {f"{DOWN}.weight", f"{DOWN}.bias"}
    coupling_up, coupling_down, factor, term = (tensor.double() for tensor in BIASES.values())
    bias = torch.randn(1, HIDDEN, dtype=torch.float64)
    coupled = BASE[f"{DOWN}.weight"].double() @ (coupling_up @ coupling_down)
    expected = bias + bias * factor + term + coupled.T
    assert torch.allclose(change(found[f"{DOWN}.bias"].effect, bias), expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        ({"A.Xd": None}, {}, "tensor '{0}A.Xu' has no glora_A.Xd beside it"),
        ({"B.Xu": None}, {}, "tensor '{0}A.Xd' has no glora_B.Xu beside it"),
        ({"B.Xu": torch.ones(3, INNER)}, {}, f"tensor '{{0}}B.Xu' is [3, 12], GLORA on {DOWN} needs [2, 12]"),
        (
            {"A.Xd": torch.ones(INNER, 2)},
            {},
            f"tensor '{{0}}A.Xd' and its other factor make [12, 12]; {DOWN}.weight is BF16 [8, 12]",
        ),
        ({"A.X": torch.ones(1)}, {}, "tensor '{0}A.X' has no place in a GLORA adapter of this configuration"),
        ({}, {"config_A_B": "vector"}, "tensor '{0}A.Xd' has no glora_A.X beside it"),
        ({}, {"config_A_B": "magic"}, "config_A_B = 'magic' is not known"),
        ({}, {"config_C": "constant"}, "config_C = 'constant' is not known"),
        ({}, {"config_C": None}, ""),
        (
            {"D.zeros": torch.ones(HIDDEN)},
            {},
            "tensor '{0}D.zeros' is not zero, though the configuration leaves it out",
        ),
        ({"C.zeros": torch.zeros(1)}, {}, f"tensor '{{0}}C.zeros' is [1], GLORA on {DOWN} needs [12, 1]"),
        ({"E.zeros": None}, {}, "tensor '{0}A.Xd' has no glora_E.zeros beside it"),
        ({}, {"use_magic": 1}, "use_magic = 1 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused(
    take: Callable[..., Any],
    refusal: Callable[..., str],
    change: dict[str, torch.Tensor | None],
    config: dict[str, object],
    what: str,
) -> None:
    leaves = WEIGHTS | NO_BIASES | {f"{DOWN}.glora_{leaf}": tensor for leaf, tensor in change.items()}
    if not what:  # PEFT's default holds
        assert take(leaves, **TYPE | config)
        return
    assert refusal(leaves, **TYPE | config) == what.format(f"base_model.model.{DOWN}.glora_")


def test_trained_biases_beside_it_are_refused(refusal: Callable[..., str], shop: Workshop) -> None:
    leaves = WEIGHTS | BIASES | {f"{DOWN}.base_layer.bias": torch.ones(HIDDEN)}
    assert refusal(leaves, model=shop.model(BASE), **TYPE, bias="glora_only") == (
        "bias = 'glora_only' cannot be folded: it trains biases that GLORA changes, too"
    )
