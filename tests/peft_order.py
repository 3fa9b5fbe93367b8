"""What PEFT makes of a base in float64 when several adapters are merged into it one after the other."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import torch
from peft import PeftModel

from builder.weights.rounding import round_once
from builder.weights.stream import Scratch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.peft_reference import Bench

__all__ = ["assert_equal_in_order", "wide_floats"]


def assert_equal_in_order(bench: Bench, *adapters: Path) -> None:
    """Hold every element of what we fold in an order against PEFT's merge in that order, rounded once."""
    found, reference = bench.folded(*((adapter, 1.0) for adapter in adapters)), _merged(bench, *adapters)
    assert found.keys() == reference.keys()
    for name, values in found.items():
        expected = torch.empty(values.numel(), dtype=values.dtype)
        round_once(reference[name].clone().reshape(-1), expected, Scratch())
        assert torch.equal(values.reshape(-1), expected), name


def _merged(bench: Bench, *adapters: Path) -> dict[str, torch.Tensor]:
    names = [str(index) for index in range(len(adapters))]
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            base = copy.deepcopy(bench.model).double()
            model = PeftModel.from_pretrained(base, adapters[0], adapter_name=names[0], autocast_adapter_dtype=False)
            for name, adapter in zip(names[1:], adapters[1:], strict=True):
                model.load_adapter(adapter, name, autocast_adapter_dtype=False)
            return dict(model.double().merge_and_unload(adapter_names=names).state_dict())
    finally:
        torch.set_default_dtype(torch.float32)


class _Wide:
    """torch, but what it calls float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@contextmanager
def wide_floats(*modules: str) -> Iterator[None]:
    """Let modules of PEFT that cast to float32, whatever a model is loaded in, cast to float64."""
    patches = [mock.patch(f"{module}.torch", _Wide()) for module in modules]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
