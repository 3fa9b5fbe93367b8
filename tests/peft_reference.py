"""What PEFT's own merge gives in float64, beside what we fold: tiny models, random adapters, every element compared."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from peft import PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from builder.weights.adapters import read_adapter
from builder.weights.effect import Changed
from builder.weights.folder import read_model
from builder.weights.layout import rewrite_model, write_new_model
from builder.weights.rounding import round_once
from builder.weights.site import Site
from builder.weights.stream import Scratch
from registry.provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from builder.weights.effect import Applied

__all__ = ["FAMILIES", "Bench", "make_adapter"]

NOTHING = Provenance(kind="fold", method="peft")
_LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
_LLAMA |= {"num_hidden_layers": 2, "vocab_size": 40, "max_position_embeddings": 32, "tie_word_embeddings": False}
_GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 40, "tie_word_embeddings": False}
_GPT2 |= {"bos_token_id": 1, "eos_token_id": 1}

FAMILIES: Mapping[str, Callable[[], torch.nn.Module]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_LLAMA)),
    "biased": lambda: LlamaForCausalLM(LlamaConfig(**_LLAMA, attention_bias=True, mlp_bias=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**_GPT2)),
}
"""Family -> a new model of it; ``biased`` is a Llama whose linear modules have biases."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A base and a folder to work in.

    Attributes:
        model: The base as transformers has it, float32; copy it, do not change it.
        base: The same in our own layout.
        work: An empty folder.
    """

    model: torch.nn.Module
    base: Path
    work: Path

    @classmethod
    def new(cls, family: str, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> Bench:
        """A base with random weights and biases of a dtype."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = FAMILIES[family]()
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
                parameter.data = parameter.data.to(dtype).float()
        base, config = folder / "base", folder / "config.json"
        base.mkdir()
        model.config.to_json_file(config)
        tensors = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
        write_new_model(base, tensors=tensors, files={"config.json": config}, provenance=NOTHING)
        return cls(model=model, base=base, work=folder)

    def at(self, work: Path) -> Bench:
        """The same base, another folder to work in."""
        return replace(self, work=work)

    def effects(self, adapter: Path) -> dict[str, Applied]:
        """What we take an adapter to do."""
        return Site.of(read_adapter(adapter), read_model(self.base)).effects()

    def folded(self, *adapters: tuple[Path, float], block_bytes: int = 0) -> dict[str, torch.Tensor]:
        """Every tensor of the model that we make of the base and weighted adapters."""
        model = read_model(self.base)
        effects: dict[str, list[Applied]] = {}
        for adapter, weight in adapters:
            for name, applied in self.effects(adapter).items():
                effects.setdefault(name, []).append(replace(applied, scale=weight))
        changed = {name: Changed(base=model.tensors[name], effects=tuple(some)) for name, some in effects.items()}
        if block_bytes:
            return {name: _streamed(content, block_bytes) for name, content in changed.items()}
        out = self.work / "out"
        out.mkdir()
        rewrite_model(out, model=model, changed=changed, provenance=NOTHING)
        return {name: stored.load() for name, stored in read_model(out).tensors.items()}

    def merged(self, *adapters: tuple[Path, float]) -> dict[str, torch.Tensor]:
        """What PEFT's merges add to the base in float64, weighted and summed."""
        total = {name: tensor.double() for name, tensor in self.model.state_dict().items()}
        for adapter, weight in adapters:
            for name, change in self._change(adapter).items():
                total[name] = total[name] + weight * change
        return total

    def stacked(self, *adapters: Path) -> dict[str, torch.Tensor]:
        """What PEFT merges in float64 when one model has all these adapters, in this order."""
        model = copy.deepcopy(self.model).double()
        with _quiet():
            wrapped = PeftModel.from_pretrained(model, adapters[0], "0", autocast_adapter_dtype=False)
            for number, adapter in enumerate(adapters[1:], 1):
                wrapped.load_adapter(adapter, str(number), autocast_adapter_dtype=False)
            with _float64():
                merged = wrapped.double().merge_and_unload(adapter_names=list(map(str, range(len(adapters)))))
        return dict(merged.state_dict())

    def _change(self, adapter: Path) -> dict[str, torch.Tensor]:
        model = copy.deepcopy(self.model).double()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with _quiet():
            wrapped = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).double()
            with _float64():
                after = wrapped.merge_and_unload().state_dict()
        assert before.keys() == after.keys()
        return {name: after[name] - tensor for name, tensor in before.items()}

    def assert_equal(self, *adapters: tuple[Path, float], reference: Mapping[str, torch.Tensor] | None = None) -> None:
        """Hold every element of what we fold against PEFT's merge, or another reference, rounded once."""
        found = self.folded(*adapters)
        reference = self.merged(*adapters) if reference is None else reference
        assert found.keys() == reference.keys()
        changed = 0
        for name, values in found.items():
            expected = torch.empty(values.numel(), dtype=values.dtype)
            round_once(reference[name].clone().reshape(-1), expected, Scratch())
            assert torch.equal(values.reshape(-1), expected), name
            changed += not torch.equal(expected, self.model.state_dict()[name].reshape(-1).to(values.dtype))
        assert changed, "the adapters change nothing"


def make_adapter(
    bench: Bench,
    folder: Path,
    config: Callable[[], Any],
    *,
    seed: int = 1,
    edit: Callable[[PeftModel], None] | None = None,
) -> Path:
    """Write a PEFT folder of which every trained parameter is random: PEFT's own start would change nothing.

    Args:
        bench: The base.
        folder: Folder to write.
        config: Makes PEFT's configuration.
        seed: Of the random numbers.
        edit: Called with the model before it is saved.
    """
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        wrapped = get_peft_model(copy.deepcopy(bench.model), config())
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        if edit is not None:
            edit(wrapped)
        wrapped.save_pretrained(folder, save_embedding_layers=False)
    return folder


def _streamed(content: Changed, block_bytes: int) -> torch.Tensor:
    data = b"".join(map(bytes, content.blocks(Scratch(block_bytes))))
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PEFT warns of when a case leaves a flag unset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _float64() -> Iterator[None]:
    """Some types make tensors of the default dtype while they merge, and one casts to float32."""
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(torch.float32)
