"""What every test of a method needs: an adapter of a few tensors, taken to a tiny Llama."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from builder.weights.adapters import read_adapter
from builder.weights.effect import Block
from builder.weights.folder import read_model
from builder.weights.site import Site
from builder.weights.stream import CPU
from registry.errors import InvalidError
from tests.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from builder.weights.effect import Applied, Effect


class Take(Protocol):
    """Gives what an adapter does to each tensor; leaves are those of one module or of several, by name."""

    def __call__(
        self, leaves: Mapping[str, torch.Tensor | None], *, model: Path | None = None, **config: object
    ) -> dict[str, Applied]: ...


class Refusal(Protocol):
    """Gives what an adapter is refused for."""

    def __call__(
        self, leaves: Mapping[str, torch.Tensor | None], *, model: Path | None = None, **config: object
    ) -> str: ...


class Change(Protocol):
    """Gives what an effect makes of a part of a weight."""

    def __call__(
        self, effect: Effect, weight: torch.Tensor, *, rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor: ...


@pytest.fixture
def change() -> Change:
    """The weight is float64, ``[out, in]``; without a part, all of it."""

    def of(
        effect: Effect, weight: torch.Tensor, *, rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        at = Block(rows or slice(0, weight.shape[0]), columns or slice(0, weight.shape[1]))
        part = weight[at.rows, at.columns].clone()
        effect.load(CPU).apply(part, part.clone(), at, 1.0)
        return part

    return of


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


@pytest.fixture
def take(shop: Workshop) -> Take:
    """Names in ``leaves`` are those of tensors, without PEFT's prefix; a tensor that is ``None`` is left out."""

    def of(
        leaves: Mapping[str, torch.Tensor | None], *, model: Path | None = None, **config: object
    ) -> dict[str, Applied]:
        tensors = {f"base_model.model.{name}": tensor for name, tensor in leaves.items() if tensor is not None}
        adapter = shop.adapter(None, tensors, **{"r": None, "lora_alpha": None} | config)
        return Site.of(read_adapter(adapter), read_model(model or shop.model())).effects()

    return of


@pytest.fixture
def refusal(take: Take) -> Refusal:
    def of(leaves: Mapping[str, torch.Tensor | None], *, model: Path | None = None, **config: object) -> str:
        with pytest.raises(InvalidError) as caught:
            take(leaves, model=model, **config)
        return caught.value.what

    return of
