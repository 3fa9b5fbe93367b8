"""Adapters over weights that are held in 8 or 4 bits: trained with bitsandbytes, also on the processor alone."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from builder.environment import Device
from builder.stages import few_bits
from builder.stages.models import open_model
from registry.errors import MachineError
from tests.integration import training
from tests.integration.test_adapter_types import folded, logits, settings, train, with_adapter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_package = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module", autouse=True)
def _own_variables() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    training.write_rows(folder)
    return folder


def test_a_missing_package_is_told_before_anything_is_read(tmp_path: Path, data: Path) -> None:
    missing = tmp_path / "model"
    missing.mkdir()
    with mock.patch.object(few_bits, "find_spec", return_value=None), pytest.raises(MachineError) as caught:
        train(settings("lora", base="nf4"), missing, data, tmp_path)
    assert caught.value.what == "bitsandbytes, which holds weights in nf4, is not installed"
    assert caught.value.where == "adapter.base"
    assert "varietal[quantised]" in caught.value.mend


@needs_package
@pytest.mark.parametrize("base", ["nf4", "int8"])
def test_projections_are_held_in_few_bits_and_nothing_else(base: str, tiny_llama: Path) -> None:
    model = open_model(tiny_llama, Device(kind="cpu", name="cpu", threads=1), base=base)  # type: ignore[arg-type]
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert {kind for name, kind in kinds.items() if name.endswith("_proj")} == {
        {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[base]
    }
    assert kinds["lm_head"] == "Linear"
    assert not any(one.requires_grad for one in model.parameters())


@needs_package
@pytest.mark.parametrize("base", ["nf4", "int8"])
def test_an_adapter_over_few_bits_is_plain_and_folds_into_the_stored_model(
    base: str, tiny_llama: Path, data: Path, tmp_path: Path
) -> None:
    before = training.sums(tiny_llama)
    outcome, _ = train(settings("lora", base=base), tiny_llama, data, tmp_path, steps=6)
    out = tmp_path / "out"
    tensors = load_file(out / "adapter_model.safetensors")
    assert {one.dtype for one in tensors.values()} == {torch.float32}
    assert f"trained over weights held in {base}; the adapter belongs to the weights as stored" in outcome.notes
    assert training.sums(tiny_llama) == before
    assert outcome.metrics["train_loss"]["value"] < 6
    changed = with_adapter(tiny_llama, out)
    assert (changed - logits(AutoModelForCausalLM.from_pretrained(tiny_llama))).abs().max() > 1e-3
    assert (folded(tiny_llama, out, tmp_path / "fold") - changed).abs().max() < 1e-4


@needs_package
def test_twice_the_same_bytes(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(settings("lora", base="nf4"), tiny_llama, data, tmp_path / name)
    assert training.sums(tmp_path / "one" / "out") == training.sums(tmp_path / "two" / "out")
