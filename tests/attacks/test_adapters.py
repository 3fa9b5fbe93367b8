"""Adapters of every type with tensors and settings that are not theirs: refused in words, or folded, never a crash."""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file

from builder.weights.adapters import read_adapter
from builder.weights.effect import Changed
from builder.weights.folder import read_model
from builder.weights.method import METHODS, method_of
from builder.weights.peft_config import PeftConfig
from builder.weights.site import Site
from builder.weights.stream import Scratch
from registry.errors import InvalidError
from tests.peft_reference import Bench, make_adapter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TARGETS = ["q_proj", "down_proj"]
SETTINGS: dict[str, dict[str, Any]] = {
    "ADALORA": {"init_r": 3, "total_step": 9},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 20},
    "FROD": {"sparse_rate": 0.1, "progressbar": False},
    "IA3": {"feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["norm"]},
    "LOKR": {"r": 1, "decompose_both": True, "decompose_factor": 4},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 4},
    "RANDLORA": {"r": 5},
    "ROAD": {"group_size": 4},
    "SHIRA": {"r": 2},
    "TINYLORA": {"r": 3, "u": 5, "init_weights": "uniform"},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": [1, 5]},
    "UNILORA": {"r": 3, "theta_d_length": 37, "save_indices": True},
    "VBLORA": {"r": 3, "num_vectors": 11, "vector_length": 8, "topk": 3},
    "WAVEFT": {"n_frequency": 20},
}
NUMBERS = [None, -1, 0, 1.5, 10**12, 2**63, 10**30, 1e300, True, "x", "", [], [[1]], {}, {"q_proj": 10**12}, {"": None}]


class Victim:
    """A sound adapter, and what is done to it.

    Attributes:
        tensors: Those of the sound one.
        config: Its configuration.
    """

    def __init__(self, kind: str, bench: Bench, folder: Path) -> None:
        make = PEFT_TYPE_TO_CONFIG_MAPPING[kind]  # type: ignore[index]
        settings = {"target_modules": TARGETS} | SETTINGS.get(kind, {})
        make_adapter(bench, folder, partial(make, **settings))
        self.tensors = {name: one.clone() for name, one in load_file(folder / "adapter_model.safetensors").items()}
        self.config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
        self._bench, self._folder = bench, folder

    @property
    def leaves(self) -> dict[str, str]:
        """The last words of a name -> one tensor whose name ends so."""
        return {".".join(name.split(".")[-2:]): name for name in sorted(self.tensors, reverse=True)}

    def fold(self, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        """Fold the changed adapter, every tensor of it."""
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        save_file(tensors, self._folder / "adapter_model.safetensors")
        (self._folder / "adapter_config.json").write_text(json.dumps(config))
        model = read_model(self._bench.base)
        for name, applied in Site.of(read_adapter(self._folder), model).effects().items():
            for _ in Changed(base=model.tensors[name], effects=(applied,)).blocks(Scratch()):
                pass

    def survives(self, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> str:
        """What it is refused for; empty where it is folded."""
        try:
            self.fold(tensors, config)
        except InvalidError as error:
            refusal = error
        else:
            return ""
        assert refusal.what
        assert refusal.where
        assert refusal.mend
        return refusal.what


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    return {family: Bench.new(family, tmp_path_factory.mktemp(family)) for family in ("llama", "biased")}


@pytest.fixture(scope="module", params=METHODS)
def victim(
    request: pytest.FixtureRequest, benches: dict[str, Bench], tmp_path_factory: pytest.TempPathFactory
) -> Victim:
    kind = request.param
    return Victim(kind, benches["biased" if kind == "BEFT" else "llama"], tmp_path_factory.mktemp(kind) / "adapter")


def misshapen(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Other shapes, some of which hold the same numbers, and other dtypes."""
    flat = tensor.reshape(-1)
    yield torch.ones(())
    yield flat
    yield tensor.unsqueeze(0)
    yield tensor.unsqueeze(-1)
    yield torch.zeros(0)
    yield torch.zeros((0, *tensor.shape[1:]))
    yield torch.zeros((*tensor.shape[:-1], 0))
    yield torch.cat([flat, flat])
    yield torch.cat([tensor, tensor])
    yield torch.cat([tensor, tensor], -1)
    yield tensor[:-1]
    for dtype in (torch.int64, torch.uint8, torch.uint16, torch.bool, torch.float64, torch.float8_e4m3fn):
        yield torch.ones(tensor.shape).to(dtype)


def test_tensors_that_are_not_its_own_are_refused_or_folded(victim: Victim) -> None:
    refused = 0
    for name in victim.leaves.values():
        for tensor in misshapen(victim.tensors[name]):
            refused += bool(victim.survives(victim.tensors | {name: tensor.contiguous().clone()}, victim.config))
        refused += bool(
            victim.survives({key: one for key, one in victim.tensors.items() if key != name}, victim.config)
        )
    assert refused > len(victim.leaves)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(victim: Victim, value: float) -> None:
    for name in victim.leaves.values():
        tensor = victim.tensors[name].clone()
        if tensor.is_floating_point():
            tensor.view(-1)[-1] = value
            what = victim.survives(victim.tensors | {name: tensor}, victim.config)
            assert what.startswith("tensor '"), what
            assert name.rpartition(".")[2] in what


def test_settings_that_make_no_sense_are_refused_or_folded(victim: Victim) -> None:
    method = method_of(PeftConfig(path=victim._folder, values=victim.config))
    keys = {*method.read, *method.needed, "bias", "target_modules", "modules_to_save", "trainable_token_indices"}
    for key in sorted(keys):
        for value in NUMBERS:
            victim.survives(victim.tensors, victim.config | {key: value})
