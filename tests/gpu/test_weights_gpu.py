"""A fold gives the same bytes on the CPU and on a GPU, whatever the adapter does to the weight."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from builder.runner import Runner
from builder.stages.fold import fold
from builder.weight_stages import FoldStage
from builder.weighting import ONE
from registry.artifact import Artifact
from tests.workshop import DOWN, HIDDEN, INNER, QUERY, Workshop, llama, lora

if TYPE_CHECKING:
    from pathlib import Path

    from builder.stage import Context
    from registry.digest import Digest

SETTINGS = FoldStage(from_="base", adapters={"tone": ONE})
MODULES = {QUERY: (HIDDEN, HIDDEN), DOWN: (HIDDEN, INNER)}


def magnitudes() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        f"base_model.model.{module}.lora_magnitude_vector": torch.rand(rows, generator=generator) + 0.5
        for module, (rows, _) in MODULES.items()
    }


def folded(context: Context[Any], device: str) -> Digest:
    context.out.rmdir()
    context.out.mkdir()
    outcome = fold(replace(context, runner=Runner(threads=2, device="cuda" if device == "cuda" else "cpu")))
    return Artifact.from_folder(context.out, outcome.type, outcome.written).digest


@pytest.mark.gpu(count=1)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dora", [False, True])
def test_cpu_and_gpu_give_the_same_bytes(tmp_path: Path, dtype: torch.dtype, *, dora: bool) -> None:
    shop = Workshop(root=tmp_path)
    base = shop.model(llama(dtype=dtype))
    tensors = lora(MODULES) | (magnitudes() if dora else {})
    adapter = shop.input("adapter", shop.adapter(base, tensors, use_dora=dora), name="tone", weight=0.7)
    digests = {folded(shop.context(SETTINGS, shop.input("from", base), adapter), device) for device in ("cpu", "cuda")}
    assert len(digests) == 1


@pytest.mark.gpu(count=1)
@pytest.mark.parametrize("series", [False, True])
def test_rotations_give_the_same_bytes_from_several_threads(tmp_path: Path, *, series: bool) -> None:
    # Without the series a linear system is solved, by a library that a GPU loads at its first call.
    shop = Workshop(root=tmp_path)
    base = shop.model(llama(dtype=torch.bfloat16))
    generator = torch.Generator().manual_seed(3)
    size = 4
    tensors = {
        f"base_model.model.{module}.oft_R.weight": torch.randn(
            columns // size, size * (size - 1) // 2, generator=generator
        ).mul_(0.1)
        for module, (_, columns) in MODULES.items()
    }
    settings: dict[str, Any] = {"oft_block_size": size, "use_cayley_neumann": series, "peft_version": "0.21.2"}
    adapter = shop.input(
        "adapter", shop.adapter(base, tensors, peft_type="OFT", r=0, **settings), name="tone", weight=1.0
    )
    digests = {folded(shop.context(SETTINGS, shop.input("from", base), adapter), device) for device in ("cpu", "cuda")}
    assert len(digests) == 1
