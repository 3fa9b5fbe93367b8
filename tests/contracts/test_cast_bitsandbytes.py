"""Dequantised as bitsandbytes 0.50.2 does it, byte for byte.

Its results are here as digests, so nothing else is needed to hold ours against them. Where it is installed, the tests
marked ``live`` make the digests again, and go the whole way through transformers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import torch

from builder.stages.cast import cast
from builder.weight_stages import CastStage
from builder.weights.blockwise import read_blockwise
from builder.weights.folder import read_model
from builder.weights.stream import Scratch
from builder.weights.vectorwise import read_vectorwise
from registry.artifact import Artifact
from tests.workshop import Workshop

if TYPE_CHECKING:
    from pathlib import Path

    from builder.weights.stream import Stored
    from builder.weights.values import Values

live = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def counted(count: int, step: int, start: int, modulus: int) -> torch.Tensor:
    """Whole numbers that every machine makes alike."""
    return (torch.arange(count) * step + start) % modulus


class Case(Protocol):
    """A quantised weight ``w.weight``: its tensors, and the numbers that they stand for."""

    digest: str

    def tensors(self) -> dict[str, torch.Tensor]: ...

    def ours(self, tensors: dict[str, Stored]) -> Values: ...

    def theirs(self) -> torch.Tensor: ...


@dataclass(frozen=True, kw_only=True)
class FourBit:
    kind: str
    dtype: str
    block: int
    shape: tuple[int, int]
    nested: bool = False
    digest: str

    def tensors(self) -> dict[str, torch.Tensor]:
        count = self.shape[0] * self.shape[1]
        blocks = -(-count // self.block)
        state: dict[str, Any] = {"quant_type": self.kind, "blocksize": self.block, "dtype": self.dtype}
        state["shape"] = list(self.shape)
        tensors = {
            "w.weight": counted(-(-count // 2), 37, 11, 256).to(torch.uint8).view(-1, 1),
            "w.weight.absmax": (counted(blocks, 91, 5, 1000).float() + 1) / 997,
            "w.weight.quant_map": TABLES[self.kind],
        }
        if self.nested:
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.3721}
            tensors |= {
                "w.weight.absmax": counted(blocks, 53, 7, 256).to(torch.uint8),
                "w.weight.nested_absmax": (counted(-(-blocks // 256), 31, 3, 100).float() + 1) / 7,
                "w.weight.nested_quant_map": (counted(256, 1, 0, 256).float() - 127) / 129,
            }
        packed = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
        return tensors | {f"w.weight.quant_state.bitsandbytes__{self.kind}": packed}

    def ours(self, tensors: dict[str, Stored]) -> Values:
        prefix = "w.weight."
        parts = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
        return read_blockwise(tensors["w.weight"], parts)

    def theirs(self) -> torch.Tensor:
        from bitsandbytes import functional  # noqa: PLC0415

        tensors = self.tensors()
        state = functional.QuantState.from_dict(
            {name: one for name, one in tensors.items() if name != "w.weight"}, device=torch.device("cpu")
        )
        found: torch.Tensor = functional.dequantize_4bit(tensors["w.weight"], state)
        return found


@dataclass(frozen=True, kw_only=True)
class EightBit:
    shape: tuple[int, int]
    digest: str

    def tensors(self) -> dict[str, torch.Tensor]:
        rows, columns = self.shape
        return {
            "w.weight": (counted(rows * columns, 71, 13, 255) - 127).to(torch.int8).view(rows, columns),
            "w.SCB": (counted(rows, 91, 5, 1000).float() + 1) / 997,
            "w.weight_format": torch.tensor(0, dtype=torch.uint8),
        }

    def ours(self, tensors: dict[str, Stored]) -> Values:
        return read_vectorwise(tensors["w.weight"], {name.removeprefix("w."): one for name, one in tensors.items()})

    def theirs(self) -> torch.Tensor:
        from bitsandbytes import functional  # noqa: PLC0415

        tensors = self.tensors()
        found: torch.Tensor = functional.int8_vectorwise_dequant(tensors["w.weight"], tensors["w.SCB"])
        return found


TABLES = {
    "fp4": torch.tensor([0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3]) / 12,
    "nf4": torch.tensor(
        [
            *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
            *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
            *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
            *(0.7229568362236023, 1.0),
        ]
    ),
}
CASES: dict[str, Case] = {
    "nf4": FourBit(kind="nf4", dtype="bfloat16", block=64, shape=(6, 128), digest="513c3b27f95aab13"),
    "nf4, scales quantised": FourBit(
        kind="nf4", dtype="bfloat16", block=64, shape=(300, 64), nested=True, digest="b10fd98a969239c8"
    ),
    "nf4, float32": FourBit(
        kind="nf4", dtype="float32", block=64, shape=(300, 64), nested=True, digest="be4b246706aa77bf"
    ),
    "nf4, an odd number": FourBit(kind="nf4", dtype="float32", block=32, shape=(7, 45), digest="1eeaa8afb3396b12"),
    "fp4": FourBit(kind="fp4", dtype="float16", block=128, shape=(5, 128), digest="bc75fc5e4874982f"),
    "fp4, scales quantised": FourBit(
        kind="fp4", dtype="float32", block=32, shape=(260, 32), nested=True, digest="0e2020b4bc265985"
    ),
    "int8": EightBit(shape=(37, 48), digest="58ca86b8d1964eda"),
}


def digest(numbers: torch.Tensor) -> str:
    return hashlib.sha256(numbers.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_numbers_are_those_of_bitsandbytes(shop: Workshop, case: Case, block_bytes: int) -> None:
    values = case.ours(dict(read_model(shop.model(case.tensors())).tensors))
    numbers = torch.cat([block.clone() for block in values.numbers(Scratch(block_bytes))])
    assert digest(numbers) == case.digest
    assert numbers.numel() == torch.Size(values.spec.shape).numel()


@live
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_digests_are_those_of_bitsandbytes(case: Case) -> None:
    assert digest(case.theirs()) == case.digest


METHODS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4, stored as bfloat16": {"load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
    "int8": {"load_in_8bit": True},
}


@live
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_model_that_transformers_quantised_is_cast_to_what_it_computes_with(
    shop: Workshop, family: str, method: dict[str, Any]
) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, LlamaConfig  # noqa: PLC0415
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight  # noqa: PLC0415

    plain, quantised = shop.folder(), shop.folder()
    sizes = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    config = (
        LlamaConfig(**sizes, **tokens, intermediate_size=192) if family == "llama" else GPT2Config(**sizes, **tokens)
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(plain)
    settings = BitsAndBytesConfig(**method)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=settings, dtype=torch.bfloat16)
    model.save_pretrained(quantised)
    Artifact.from_folder(quantised, "model").write(quantised)
    context = shop.context(CastStage(from_="base", dtype="float32"), shop.input("from", quantised))
    cast(context)
    found = read_model(context.out).tensors
    layers = {name: one for name, one in model.named_modules() if type(one).__name__ in {"Linear4bit", "Linear8bitLt"}}
    assert len(layers) == (7 if family == "llama" else 4)
    for name, layer in layers.items():
        expected = dequantize_bnb_weight(layer.weight, getattr(layer, "state", None)).float()
        assert torch.equal(found[f"{name}.weight"].load(), expected.T if family == "gpt2" else expected), name
