"""The configuration that PEFT reads: one pattern for each module, and none that fits two."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.lora_folder import Adapted, LoraFolder, spool
from builder.weights.low_rank import Pair
from builder.weights.peft_config import read_config
from registry.errors import InvalidError
from registry.provenance import Provenance
from registry.safetensors import read_header

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = Provenance(kind="fuse", method="concat")


def adapted(folder: Path, module: str, rank: int, *, embedding: bool = False) -> Adapted:
    pair = Pair(up=torch.ones(3, rank), down=torch.ones(rank, 4), size=1.0, error=0.0)
    return spool(folder / f"{module}.part", module, pair, embedding=embedding)


def written(folder: Path, lora: LoraFolder, modules: set[str]) -> Path:
    out = folder / "out"
    out.mkdir()
    lora.write(out, modules=modules, provenance=NOTHING)
    return out


def test_one_pattern_fits_one_module(tmp_path: Path) -> None:
    names = [f"{prefix}layers.{layer}.proj" for prefix in ("", "model.") for layer in (1, 11, 111)]
    ranks = {name: number + 1 for number, name in enumerate(names)}
    lora = LoraFolder(adapted=tuple(adapted(tmp_path, name, rank) for name, rank in ranks.items()))
    config = read_config(written(tmp_path, lora, set(names)) / "adapter_config.json")
    patterns = config.values["rank_pattern"]
    assert isinstance(patterns, dict)
    for name, rank in ranks.items():
        fitting = [key for key in patterns if re.match(rf"(.*\.)?({key})$", name)]  # as PEFT matches
        assert len(fitting) == (rank < len(names))
        assert config.count("r", name, patterns="rank_pattern") == rank
        assert config.number("lora_alpha", name, patterns="alpha_pattern") == rank


def test_an_embedding_has_leaves_of_its_own(tmp_path: Path) -> None:
    lora = LoraFolder(adapted=(adapted(tmp_path, "wte", 2, embedding=True), adapted(tmp_path, "proj", 2)))
    header = read_header(written(tmp_path, lora, {"wte", "proj"}) / "adapter_model.safetensors")
    assert {name: info.shape for name, info in header.tensors.items()} == {
        "base_model.model.wte.lora_embedding_A": (2, 4),
        "base_model.model.wte.lora_embedding_B": (3, 2),
        "base_model.model.proj.lora_A.weight": (2, 4),
        "base_model.model.proj.lora_B.weight": (3, 2),
    }


def test_nothing_of_this_machine_is_in_the_configuration(tmp_path: Path) -> None:
    out = written(tmp_path, LoraFolder(adapted=(adapted(tmp_path, "proj", 2),)), {"proj"})
    assert json.loads((out / "adapter_config.json").read_text()) == {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": "",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 2,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 2,
        "rank_pattern": {},
        "revision": None,
        "target_modules": ["proj"],
        "task_type": None,
        "trainable_token_indices": None,
        "use_dora": False,
        "use_rslora": False,
    }


def test_a_name_that_is_the_end_of_another_is_refused(tmp_path: Path) -> None:
    lora = LoraFolder(adapted=(adapted(tmp_path, "proj", 2),))
    with pytest.raises(InvalidError) as caught:
        written(tmp_path, lora, {"proj", "inner.proj", "other"})
    assert caught.value.what == "PEFT would take 'proj' for 'inner.proj', too, whose name ends like it"
