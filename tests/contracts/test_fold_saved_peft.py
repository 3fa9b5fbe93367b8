"""Parameters that PEFT saves whole, and rows of tokens: what we fold is its own merge in float64, rounded once."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LNTuningConfig, LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model

from builder.weights.layout import write_new_model
from registry.errors import InvalidError
from registry.provenance import Provenance
from tests.peft_loaded import LoadedBench
from tests.peft_reference import make_adapter

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = [3, 0, 39]
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
CASES: dict[str, tuple[str, partial[Any]]] = {
    "head": ("untied", partial(LoraConfig, target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "embedding": ("untied", partial(LoraConfig, target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "every norm by the end of its name": (
        "untied",
        partial(LoraConfig, target_modules=["q_proj"], modules_to_save=["norm", "0.self_attn.o_proj"]),
    ),
    "a module of modules": ("untied", partial(LoraConfig, target_modules=["q_proj"], modules_to_save=["mlp"])),
    "tied, both of them": (
        "tied",
        partial(LoraConfig, target_modules=["q_proj"], modules_to_save=["lm_head"], ensure_weight_tying=True),
    ),
    "tied, neither": ("tied", partial(LoraConfig, target_modules=["q_proj"], modules_to_save=["norm"])),
    "weight tying of what is not tied": (
        "untied",
        partial(LoraConfig, target_modules=["embed_tokens"], modules_to_save=["norm"], ensure_weight_tying=True),
    ),
    "tokens": ("untied", partial(LoraConfig, target_modules=["q_proj"], trainable_token_indices=TOKENS)),
    "tokens by module": (
        "untied",
        partial(LoraConfig, target_modules=["q_proj"], trainable_token_indices={"tokens": TOKENS, "lm_head": [7]}),
    ),
    "tokens, tied": ("tied", partial(LoraConfig, target_modules=["q_proj"], trainable_token_indices=TOKENS)),
    "tokens by module, tied": (
        "tied",
        partial(
            LoraConfig, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": TOKENS, "lm_head": TOKENS}
        ),
    ),
    "tokens, tied gpt2": ("tied gpt2", partial(LoraConfig, target_modules=["c_attn"], trainable_token_indices=TOKENS)),
    "trainable tokens": ("untied", partial(TrainableTokensConfig, token_indices=TOKENS)),
    "trainable tokens, tied": ("tied", partial(TrainableTokensConfig, token_indices=TOKENS)),
    "trainable tokens, tied gpt2": ("tied gpt2", partial(TrainableTokensConfig, token_indices=TOKENS)),
    "trainable tokens of two modules": (
        "untied",
        partial(TrainableTokensConfig, token_indices=TOKENS, target_modules=["embed_tokens", "lm_head"]),
    ),
    "norms": ("untied", partial(LNTuningConfig)),
    "norms with biases": ("tied gpt2", partial(LNTuningConfig)),
    "other modules as norms are": (
        "untied",
        partial(LNTuningConfig, target_modules=["norm", "q_proj", "down_proj", "embed_tokens"]),
    ),
    "position embeddings beside a tied one": (
        "tied gpt2",
        partial(LoraConfig, target_modules=["wpe"], use_dora=True),
    ),
}


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedBench]:
    return {model: LoadedBench.of(model, tmp_path_factory.mktemp("base")) for model in ("untied", "tied", "tied gpt2")}


@pytest.mark.parametrize(("model", "config"), CASES.values(), ids=CASES)
def test_every_element_is_that_of_peft_rounded_once(
    benches: dict[str, LoadedBench], model: str, config: partial[Any], tmp_path: Path
) -> None:
    bench = benches[model].at(tmp_path)
    bench.assert_equal((make_adapter(bench, tmp_path / "adapter", config), 1.0))


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["embed_tokens", "q_proj"]], ids=str)
def test_a_tied_adapter_on_a_tied_embedding_gives_what_peft_computes_with_it(
    benches: dict[str, LoadedBench], targets: list[str], tmp_path: Path
) -> None:
    """PEFT's own merge adds it to the one tensor twice; its forward pass, which was trained, once on each side."""
    bench = benches["tied"].at(tmp_path)
    config = partial(LoraConfig, r=3, target_modules=targets, ensure_weight_tying=True)
    folder = make_adapter(bench, tmp_path / "adapter", config, edit=tie)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = copy.deepcopy(bench.model).double()
        wrapped = PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=False).double()
    with torch.no_grad():
        rows = wrapped.get_input_embeddings()(torch.arange(40))
        columns = wrapped.get_output_embeddings()(torch.eye(16, dtype=torch.float64))
    assert torch.allclose(rows, columns.T, rtol=1e-14, atol=1e-14)
    with pytest.warns(UserWarning, match="can lead to complications"):
        reference = wrapped.merge_and_unload().state_dict()
    assert not torch.allclose(reference["lm_head.weight"], rows, rtol=0, atol=0.1)
    bench.assert_equal((folder, 1.0), reference=reference | dict.fromkeys(EMBEDDINGS, rows))


def tie(model: PeftModel) -> None:
    """Random numbers put into each of two tied tensors leave those of the one that came last in both."""
    tensors = dict(model.named_parameters())
    prefix = "base_model.model."
    with torch.no_grad():
        for ours, theirs in (("A", "B"), ("B", "A")):
            embedding = tensors[f"{prefix}model.embed_tokens.lora_embedding_{ours}.default"]
            tensors[f"{prefix}lm_head.lora_{theirs}.default.weight"].copy_(embedding.T)


def test_copies_of_the_embedding_that_peft_saves_are_left_alone(
    benches: dict[str, LoadedBench], tmp_path: Path
) -> None:
    for model in ("untied", "tied"):
        bench = benches[model].at(tmp_path / model)
        bench.work.mkdir()
        folder = saved_with_embeddings(bench, bench.work / "adapter")
        bench.assert_equal((folder, 1.0))
        assert {name.rpartition(".")[0] for name in bench.effects(folder)} == {"model.layers.0.self_attn.q_proj"}


def test_new_words_that_peft_saves_are_taken_once_the_model_has_room_for_them(
    benches: dict[str, LoadedBench], tmp_path: Path
) -> None:
    bench = benches["untied"].at(tmp_path)
    grown = copy.deepcopy(bench.model)
    grown.resize_token_embeddings(43, mean_resizing=False)
    trained = LoadedBench(model=grown, base=bench.base, work=tmp_path)
    folder = saved_with_embeddings(trained, tmp_path / "adapter")
    with pytest.raises(InvalidError) as caught:
        bench.effects(folder)
    assert caught.value.what == "tensor 'base_model.model.lm_head.weight' is [43, 16]; lm_head.weight is [40, 16]"
    assert caught.value.mend == "graft 3 words into the model first"
    # Grafted, with rows of another start at the end.
    grafted = {name: tensor.bfloat16() for name, tensor in grown.state_dict().items()}
    for name in EMBEDDINGS:
        grafted[name][40:] = 0.5
    base = tmp_path / "grafted"
    base.mkdir()
    grown.config.to_json_file(tmp_path / "config.json")
    provenance = Provenance(kind="graft", method="vocabulary")
    write_new_model(base, tensors=grafted, files={"config.json": tmp_path / "config.json"}, provenance=provenance)
    grown.load_state_dict({name: tensor.float() for name, tensor in grafted.items()})
    LoadedBench(model=grown, base=base, work=tmp_path).assert_equal((folder, 1.0))


def saved_with_embeddings(bench: LoadedBench, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(2)
        wrapped = get_peft_model(copy.deepcopy(bench.model), LoraConfig(target_modules=["q_proj"]))
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
        wrapped.save_pretrained(folder, save_embedding_layers=True)
    return folder


def test_what_is_saved_in_float32_is_rounded_once(benches: dict[str, LoadedBench], tmp_path: Path) -> None:
    bench = benches["untied"].at(tmp_path)
    config = partial(LoraConfig, target_modules=["q_proj"], modules_to_save=["lm_head"], trainable_token_indices=[1, 2])
    folder = make_adapter(bench, tmp_path / "adapter", config)
    stored = {name: applied for name, applied in bench.effects(folder).items() if "self_attn" not in name}
    assert stored.keys() == {"lm_head.weight", "model.embed_tokens.weight"}
    bench.assert_equal((folder, 1.0))
    bench.at(tmp_path / "half").work.mkdir()
    bench.at(tmp_path / "half").assert_equal((folder, 0.5))
