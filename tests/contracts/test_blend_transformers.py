"""What a blend writes is what transformers loads: every weight in its place, every token with a row."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from builder.stages.blend import blend
from builder.weight_stages import BlendSource, BlendStage
from registry.artifact import Artifact
from tests.workshop import Workshop

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeModel


def artifact(source: Path, folder: Path, *tokens: str) -> Path:
    """A copy as an artifact, with more tokens in spare rows of a longer embedding."""
    shutil.copytree(source, folder)
    if tokens:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
        model.resize_token_embeddings(tokenizer.get_vocab_size(with_added_tokens=True))
        model.save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))
    Artifact.from_folder(folder, "model").write(folder)
    return folder


def load(folder: Path) -> Any:  # noqa: ANN401 - no types to be had
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model


def test_layers_on_layers_load_and_run(make_model: MakeModel, tmp_path: Path) -> None:
    shop = Workshop(root=tmp_path)
    one = artifact(make_model("llama", layers=2, seed=1), tmp_path / "one")
    settings = BlendStage(method="passthrough", models={"one": BlendSource()})
    taken = shop.input("model", one)
    taken.settings["layers"] = [[0, "0-1"], [1, "0-1"]]  # type: ignore[index]
    context = shop.context(settings, taken)
    blend(context)
    model, base = load(context.out), load(one)
    assert model.config.num_hidden_layers == 4
    # A stack of the same layers is the base run through twice.
    ids = torch.tensor([[5, 6, 7]])
    twice = base.model.layers
    base.model.layers = torch.nn.ModuleList([*twice, *load(one).model.layers])
    for number, layer in enumerate(base.model.layers):
        layer.self_attn.layer_idx = number
    base.config.num_hidden_layers = 4
    with torch.no_grad():
        assert torch.equal(model(ids, use_cache=False).logits, base(ids, use_cache=False).logits)


def test_a_union_has_a_row_for_every_token(make_model: MakeModel, tmp_path: Path) -> None:
    shop = Workshop(root=tmp_path)
    one = artifact(make_model("llama", seed=1), tmp_path / "one", "<|left|>")
    two = artifact(make_model("llama", seed=2), tmp_path / "two", "<|right|>", "<|more|>")
    settings = BlendStage(method="linear", models={"one": BlendSource(), "two": BlendSource()}, tokenizer="union")
    context = shop.context(settings, shop.input("model", one, name="one"), shop.input("model", two, name="two"))
    blend(context)
    model, tokenizer = load(context.out), AutoTokenizer.from_pretrained(context.out)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) == model.config.vocab_size
    for token in ("<|left|>", "<|right|>", "<|more|>"):
        assert tokenizer(token, add_special_tokens=False).input_ids == [tokenizer.convert_tokens_to_ids(token)]
    # A token that one model alone has is as that model has it.
    other, its = load(two), AutoTokenizer.from_pretrained(two)
    row = model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("<|more|>")]
    assert torch.equal(row, other.get_input_embeddings().weight[its.convert_tokens_to_ids("<|more|>")])
