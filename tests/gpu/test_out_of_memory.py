"""A training that really runs out of a GPU's memory goes on with smaller micro-batches; what it took is recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from builder.call import call
from registry.errors import MachineError
from tests.integration import training

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.gpu(count=1)

_MIB = 1 << 20
_BATCH, _LENGTH = 32, 1024


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A network whose activations are far larger than its weights: 40 million of these."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=len(tokenizer),
        max_position_embeddings=_LENGTH,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    rows = [{"text": f"{number} zqx " * 300} for number in range(_BATCH)]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "text.jsonl"


@pytest.fixture
def capped() -> Iterator[None]:
    """2 GiB of the card: a row of that length takes about 430 MiB, weights and states 550."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((2048 * _MIB) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def _stage(**more: object) -> object:
    return training.sft_stage(None, None, steps=2, batch=_BATCH, max_length=_LENGTH, loss_on="all", **more)


def test_a_micro_batch_is_halved_until_it_fits(base: Path, data: Path, tmp_path: Path, capped: None) -> None:
    del capped
    inputs = [training.model_input("from", base), training.data_input(data)]
    context = training.context(_stage(), inputs, tmp_path, micro_batch=_BATCH)
    outcome = call("sft", context, where="support:tone")
    assert 1 <= outcome.micro_batch < _BATCH
    (note,) = [one for one in outcome.notes if one.startswith("micro-batch ")]
    assert note.startswith(f"micro-batch {outcome.micro_batch}: the device's memory was too small for {_BATCH}")
    assert 500 < outcome.device_memory_mib <= 2048
    assert outcome.curve[0].startswith("step\tloss")


def test_what_is_left_of_a_try_is_given_back(base: Path, data: Path, tmp_path: Path) -> None:
    """Else the next try would find less memory than the first."""
    inputs = [training.model_input("from", base), training.data_input(data)]
    context = training.context(_stage(), inputs, tmp_path, micro_batch=1)
    call("sft", context, where="support:tone")
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() < 128 * _MIB


def test_a_row_that_does_not_fit_is_said_with_what_would(base: Path, data: Path, tmp_path: Path) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    inputs = [training.model_input("from", base), training.data_input(data)]
    context = training.context(_stage(), inputs, tmp_path, micro_batch=2)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((650 * _MIB) / total)
    try:
        with pytest.raises(MachineError) as caught:
            call("sft", context, where="support:tone")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert caught.value.what.startswith("the device's memory is too small for a single row at a time: it takes about")
    assert caught.value.mend.startswith("write ")
