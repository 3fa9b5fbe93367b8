from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from peft import FrodConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from builder.environment import Device
from builder.stages.models import open_adapter, open_model, open_tokenizer
from builder.stages.subject import Subject
from registry.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

CPU = Device(kind="cpu", name="cpu", threads=1)
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_llama, tmp_path / "model")


@pytest.fixture
def adapter(tiny_llama: Path, tmp_path: Path) -> Path:
    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder: Path, drop: str = "", **replaced: torch.Tensor) -> None:
    """Rewrite the weights of a folder."""
    tensors = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if name != drop}
    save_file(tensors | {name.replace("__", "."): tensor for name, tensor in replaced.items()}, folder / WEIGHTS)


def test_a_model_is_opened_in_float32_for_reading(make_model: object) -> None:
    stored = make_model("llama", dtype="bfloat16")  # type: ignore[operator]
    model = open_model(stored, CPU)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in open_model(stored, CPU, dtype="auto").parameters()} == {torch.bfloat16}


def test_a_missing_weight_is_not_made_up(folder: Path) -> None:
    change(folder, drop="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(InvalidError) as caught:
        open_model(folder, CPU)
    assert str(caught.value) == (
        "1 weights are missing or of another shape than config.json says: model.layers.1.mlp.up_proj.weight\n"
        f"  where: {folder}\n"
        "  mend: build or import the model again; its files do not belong together"
    )


def test_a_weight_of_another_shape_is_refused(folder: Path) -> None:
    change(folder, model__norm__weight=torch.ones(7))
    with pytest.raises(InvalidError, match=r"of another shape than config\.json says: model\.norm\.weight"):
        open_model(folder, CPU)


def test_a_tied_head_is_not_missing(make_model: object) -> None:
    model = open_model(make_model("gpt2", tied=True), CPU)  # type: ignore[operator]
    assert model.lm_head.weight is model.transformer.wte.weight


def test_pickles_are_not_opened(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(NotFoundError) as caught:
        open_model(folder, CPU)
    assert str(caught.value) == (
        f"there are no weights in safetensors\n  where: {folder}\n  mend: import the model; that makes it canonical"
    )


def test_code_of_a_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(witness)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    open_model(folder, CPU)
    open_tokenizer(folder)
    assert not witness.exists()


def test_an_adapter_changes_what_the_model_says(tiny_llama: Path, adapter: Path) -> None:
    ids = torch.tensor([[5, 6, 7]])
    plain, adapted = open_model(tiny_llama, CPU), open_adapter(open_model(tiny_llama, CPU), adapter)
    assert not adapted.training
    assert not torch.allclose(plain(ids).logits, adapted(ids).logits, atol=1e-4)


def test_an_adapter_without_safetensors(tiny_llama: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    torch.save(tensors, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(NotFoundError, match=r"there is no adapter_model\.safetensors"):
        open_adapter(open_model(tiny_llama, CPU), adapter)


def test_an_adapter_that_lacks_a_tensor(tiny_llama: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors.pop(min(tensors))
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(InvalidError) as caught:
        open_adapter(open_model(tiny_llama, CPU), adapter)
    assert caught.value.what.startswith("the adapter does not fit the model: Found missing adapter keys")
    assert caught.value.mend == "use the model that it was trained on, or a descendant with equal shapes"


def test_an_adapter_of_another_family(tiny_gpt2: Path, adapter: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        open_adapter(open_model(tiny_gpt2, CPU), adapter)
    assert caught.value.what.startswith("the adapter does not fit the model: Target modules")


@pytest.fixture
def frod(make_model: object, tmp_path: Path) -> tuple[Path, Path]:
    """A model in bfloat16, and a FRoD adapter that was made over its weights as they are."""
    base = make_model("llama", dtype="bfloat16")  # type: ignore[operator]
    config = FrodConfig(target_modules=["q_proj"], sparse_rate=0.1, progressbar=False, task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    get_peft_model(model, config).save_pretrained(tmp_path / "frod")
    return base, tmp_path / "frod"


def test_a_frod_adapter_does_not_go_on_over_weights_of_another_dtype(frod: tuple[Path, Path]) -> None:
    base, adapter = frod
    with pytest.raises(InvalidError) as caught:
        open_adapter(open_model(base, CPU), adapter, trainable=True)
    assert str(caught.value) == (
        "the FROD adapter is one over weights in BF16, and the model is loaded in F32: "
        "what such an adapter means depends on that dtype, so it would become another one\n"
        f"  where: {adapter}\n"
        "  mend: fold it, and train the model that it gives; `precision: mixed-bfloat16` loads weights as they are"
    )
    assert not open_adapter(open_model(base, CPU), adapter).training  # read from, nothing is written


def test_a_frod_adapter_that_goes_on_keeps_its_dtypes(frod: tuple[Path, Path]) -> None:
    base, adapter = frod
    opened = open_adapter(open_model(base, CPU, dtype="auto"), adapter, trainable=True)
    config = json.loads((adapter / "adapter_config.json").read_text())
    subject = Subject(method="adapter", model=opened, tokenizer=None, folder=base, new_adapter=None, config=config)
    before = {name: tensor.dtype for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    assert {name: tensor.dtype for name, tensor in subject.tensors(opened).items()} == before
    assert before["base_model.frod_V.self_attn_q_proj"] == torch.bfloat16


@pytest.mark.parametrize("text", ['{"model_type": "unheard-of"}', "{}"])
def test_a_family_that_nobody_knows(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(InvalidError, match="transformers cannot read the model: ") as caught:
        open_model(folder, CPU)
    assert caught.value.where == str(folder)


def test_a_model_without_a_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(InvalidError, match="transformers cannot read the tokenizer: "):
        open_tokenizer(folder)
