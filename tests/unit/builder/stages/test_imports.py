"""Import from folders: what is taken, what is left out, what is refused. The Hub is in tests/integration."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from builder.manifest import FolderAdapter, FolderBase
from builder.sources import folder_pin
from builder.stages.imports import import_
from builder.weights.folder import read_model
from registry.artifact import Artifact
from registry.digest import Digest
from registry.errors import DigestMismatchError, InvalidError, NotFoundError
from registry.provenance import Provenance, ProvenanceInput
from tests.workshop import HIDDEN, QUERY, Workshop, llama, lora, weights_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.stage import Context, Input, Outcome

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def foreign(shop: Workshop, tensors: Mapping[str, torch.Tensor] | None = None, **config: object) -> Path:
    """A model as others lay it out: one file, and things beside it that are not wanted."""
    from safetensors.torch import save_file  # noqa: PLC0415

    folder = shop.root / "vendor"
    folder.mkdir()
    save_file(dict(llama() if tensors is None else tensors), folder / "model.safetensors", {"format": "pt", "by": "x"})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    for name in ("tokenizer.json", "LICENSE.md", "README.md", "training_args.bin", "modeling_own.py"):
        (folder / name).write_text(name)
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.lock").write_text("")
    return folder


def run(shop: Workshop, folder: Path, *inputs: Input, adapter: bool = False) -> tuple[Context[object], Outcome]:
    path, pin = str(folder.relative_to(shop.root)), folder_pin(folder)
    settings = FolderAdapter(path=path, sha256=pin, base="tiny") if adapter else FolderBase(path=path, sha256=pin)
    context = shop.context(settings, *inputs)
    return context, import_(context)


def refusal(shop: Workshop, folder: Path, *inputs: Input, adapter: bool = False) -> str:
    with pytest.raises(InvalidError) as caught:
        run(shop, folder, *inputs, adapter=adapter)
    return str(caught.value)


def test_a_model_is_sharded_by_component_and_only_known_files_come_along(shop: Workshop) -> None:
    context, outcome = run(shop, foreign(shop))
    artifact = Artifact.from_folder(context.out, "model", outcome.written)
    artifact.verify_folder(context.out)
    others = [file.path for file in artifact.files if not file.path.startswith("model-")]
    assert others == ["LICENSE.md", "config.json", "model.safetensors.index.json", "tokenizer.json"]
    assert artifact.weights_digest == weights_digest(shop.model())
    assert outcome.notes == ("left out: README.md, modeling_own.py, original/params.json, training_args.bin",)
    assert outcome.components[0].component == "embedding.token"
    assert sum(one.tensors for one in outcome.components) == len(llama())
    header = read_model(context.out).shards["model-00001-of-00007.safetensors"]
    provenance = Provenance.from_metadata(header.metadata, where="test")
    assert provenance is not None
    assert (provenance.kind, provenance.method, provenance.layers, provenance.inputs) == ("import", "model", "0-1", ())


def test_any_layout_of_the_same_weights_gives_the_same_files(shop: Workshop) -> None:
    first, _ = run(shop, foreign(shop))
    shutil.copytree(first.out, shop.root / "again")
    second, outcome = run(shop, shop.root / "again")
    assert Artifact.from_folder(first.out, "model") == Artifact.from_folder(second.out, "model")
    assert outcome.notes == ()


def test_a_folder_that_changed_is_refused_and_nothing_is_written(shop: Workshop) -> None:
    folder = foreign(shop)
    pin = folder_pin(folder)
    (folder / "config.json").write_text("{}")
    context = shop.context(FolderBase(path="vendor", sha256=pin))
    with pytest.raises(DigestMismatchError) as caught:
        import_(context)
    assert str(caught.value) == (
        f"the folder has {folder_pin(folder)}, the pin says {pin}\n"
        "  where: vendor\n"
        "  mend: if the change is meant, pin it again: varietal pin vendor"
    )
    assert list(context.out.iterdir()) == []


def test_the_pin_is_the_artifact_digest_of_what_is_not_hidden(shop: Workshop) -> None:
    folder = foreign(shop)
    pin = folder_pin(folder)
    (folder / ".cache" / "more").write_text("x")
    assert folder_pin(folder) == pin
    shutil.rmtree(folder / ".cache")
    assert Artifact.from_folder(folder, "model").digest == pin
    (folder / "original" / "params.json").write_text("[]")
    assert folder_pin(folder) != pin


def test_a_folder_that_is_not_there_is_named(shop: Workshop) -> None:
    with pytest.raises(NotFoundError) as caught:
        import_(shop.context(FolderBase(path="nowhere", sha256=Digest("0" * 64))))
    assert caught.value.what == "there is no such folder"


def test_a_folder_outside_of_the_repository_is_refused(
    shop: Workshop, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (shop.root / "way").symlink_to(outside)
    with pytest.raises(InvalidError) as caught:
        import_(shop.context(FolderBase(path="way", sha256=Digest("0" * 64))))
    assert str(caught.value) == (
        "the folder is outside of the repository\n  where: way\n  mend: copy it into the repository, and pin the copy"
    )


def test_a_symlink_in_the_folder_is_refused(shop: Workshop) -> None:
    folder = foreign(shop)
    (folder / "vocab.json").symlink_to("/etc/passwd")
    with pytest.raises(InvalidError) as caught:
        folder_pin(folder)
    assert str(caught.value) == (
        f"vocab.json is a symlink or a special file\n  where: {folder}\n  mend: put the file itself there"
    )


@pytest.mark.parametrize("sharded", [False, True])
def test_weights_in_pickles_come_in_as_the_same_artifact(shop: Workshop, *, sharded: bool) -> None:
    folder = foreign(shop)
    tensors = llama()
    (folder / "model.safetensors").unlink()
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"] if sharded else ["model.pt"]
    parts = [{key: one for key, one in tensors.items() if (key < "model.layers.1") == (place == 0)} for place in (0, 1)]
    for name, part in zip(names, parts if sharded else [tensors], strict=True):
        torch.save(part, folder / name)
    if sharded:
        weight_map = {key: names[place] for place, part in enumerate(parts) for key in part}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    context, outcome = run(shop, folder)
    artifact = Artifact.from_folder(context.out, "model", outcome.written)
    artifact.verify_folder(context.out)
    assert artifact.weights_digest == weights_digest(shop.model())
    assert outcome.notes == ("left out: README.md, modeling_own.py, original/params.json, training_args.bin",)


def pickled(shop: Workshop, tensors: Mapping[str, torch.Tensor], **config: object) -> Path:
    folder = foreign(shop, **config)
    (folder / "model.safetensors").unlink()
    torch.save(dict(tensors), folder / "pytorch_model.bin")
    return folder


def test_a_tied_head_in_a_pickle_is_stored_once(shop: Workshop) -> None:
    tensors = llama(tied=True)
    folder = pickled(shop, tensors | {HEAD: tensors[EMBEDDING]}, tie_word_embeddings=True)
    context, outcome = run(shop, folder)
    assert read_model(context.out).tensors.keys() == tensors.keys()
    assert outcome.notes[0] == f"{HEAD} is tied to {EMBEDDING} and stored once"


@pytest.mark.parametrize("config", [{"tie_word_embeddings": False}, {}, {"model_type": "own"}])
def test_a_head_that_is_not_said_to_be_tied_is_stored_though_it_shares_memory(
    shop: Workshop, config: dict[str, object]
) -> None:
    tensors = llama(tied=True)
    context, _ = run(shop, pickled(shop, tensors | {HEAD: tensors[EMBEDDING]}, **config))
    found = read_model(context.out).tensors
    assert torch.equal(found[HEAD].load(), tensors[EMBEDDING])
    assert found.keys() == {*tensors, HEAD}


def test_tensors_that_share_memory_in_a_pickle_are_stored_each_by_itself(shop: Workshop) -> None:
    tensors = llama()
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"]
    context, _ = run(shop, pickled(shop, tensors))
    found = read_model(context.out).tensors
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name].load(), tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("pickles", [True, False])
def test_a_head_that_the_family_ties_is_stored_once_where_the_configuration_does_not_say(
    shop: Workshop, *, pickles: bool
) -> None:
    tensors = llama() | {HEAD: llama()[EMBEDDING].clone()}
    folder = pickled(shop, tensors, model_type="gemma") if pickles else foreign(shop, tensors, model_type="gemma")
    context, _ = run(shop, folder)
    assert HEAD not in read_model(context.out).tensors


def test_a_head_of_its_own_in_a_family_that_ties_is_refused_where_the_configuration_does_not_say(
    shop: Workshop,
) -> None:
    assert refusal(shop, foreign(shop, model_type="gemma")) == (
        f"'{HEAD}' and '{EMBEDDING}' differ, but tie_word_embeddings is left out, which for gemma says that they are "
        "one\n"
        "  where: vendor/config.json\n"
        "  mend: set tie_word_embeddings to false if the head has weights of its own, else remove the head"
    )


def test_numbered_shards_need_no_index(shop: Workshop) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415

    folder = foreign(shop)
    (folder / "model.safetensors").unlink()
    tensors = llama()
    for place in (0, 1):
        part = {key: one for key, one in tensors.items() if (key < "model.layers.1") == (place == 0)}
        save_file(part, folder / f"model-{place + 1:05}-of-00002.safetensors")
    context, _ = run(shop, folder)
    assert Artifact.from_folder(context.out, "model").weights_digest == weights_digest(shop.model())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(NotFoundError) as caught:
        run(shop, folder)
    assert caught.value.what == "there is neither model.safetensors nor model.safetensors.index.json"


def test_weights_of_another_format_are_named(shop: Workshop) -> None:
    folder = foreign(shop)
    (folder / "model.safetensors").rename(folder / "model-q4.gguf")
    assert refusal(shop, folder) == (
        "the weights are in another format (model-q4.gguf)\n"
        "  where: vendor\n"
        "  mend: import the model in safetensors, or as torch's .bin files"
    )


def test_pickles_alone_are_refused_with_the_way_out(shop: Workshop) -> None:
    folder = foreign(shop)
    (folder / "model.safetensors").rename(folder / "consolidated.00.pth")
    assert refusal(shop, folder) == (
        "the weights are pickles (consolidated.00.pth, training_args.bin); "
        "only safetensors, and pytorch_model.bin with its shards, are read\n"
        "  where: vendor\n"
        "  mend: load it where you trust it, save it with `save_pretrained` as safetensors, and import that folder"
    )


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_the_models_own_is_refused(shop: Workshop, name: str) -> None:
    folder = foreign(shop)
    (folder / name).write_text(json.dumps({"auto_map": {"AutoModel": "modeling_own.Own"}}))
    assert refusal(shop, folder) == (
        "auto_map asks for code of the model's own, which is never run\n"
        f"  where: vendor/{name}\n"
        "  mend: use a model that transformers knows by itself"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", "{% if %}"),
        ("chat_template.json", json.dumps({"chat_template": "{% if %}"})),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"name": "default", "template": "{% if %}"}]})),
    ],
)
def test_a_broken_chat_template_is_refused_wherever_it_stands(shop: Workshop, name: str, content: str) -> None:
    folder = foreign(shop)
    (folder / name).write_text(content)
    assert refusal(shop, folder) == (
        "the chat template is not valid Jinja: line 1: Expected an expression, got 'end of statement block'\n"
        f"  where: vendor/{name}\n"
        "  mend: correct the template, or use another base"
    )


def test_a_chat_template_that_is_no_text_is_refused(shop: Workshop) -> None:
    folder = foreign(shop)
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    assert refusal(shop, folder) == (
        "the chat template is not UTF-8: invalid start byte\n"
        "  where: vendor/chat_template.jinja\n"
        "  mend: save it as UTF-8, or leave it out"
    )


def test_a_quantised_model_is_refused_by_its_method(shop: Workshop) -> None:
    folder = foreign(shop, quantization_config={"quant_method": "gptq", "bits": 4})
    assert refusal(shop, folder) == (
        "the model is quantised (gptq); its weights cannot be folded or trained on as they are\n"
        "  where: vendor/config.json\n"
        "  mend: import the 16-bit model that it was made from"
    )


def test_a_model_quantised_by_bitsandbytes_comes_in_with_a_note(shop: Workshop) -> None:
    quantised = {f"{QUERY}.weight": torch.ones(32, 1, dtype=torch.uint8), f"{QUERY}.weight.absmax": torch.ones(1)}
    folder = foreign(shop, llama() | quantised, quantization_config={"load_in_4bit": True})
    _, outcome = run(shop, folder)
    assert outcome.notes[0] == "the model is quantised (bitsandbytes): cast it to 16 bits before it is folded into"


def test_a_model_without_configuration_is_refused(shop: Workshop) -> None:
    folder = foreign(shop)
    (folder / "config.json").unlink()
    assert refusal(shop, folder).startswith("there is no config.json\n  where: vendor/config.json\n")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_by_name(shop: Workshop, value: float) -> None:
    tensors = llama()
    tensors[f"{QUERY}.weight"][3, 4] = value
    assert refusal(shop, foreign(shop, tensors)).startswith(f"tensor '{QUERY}.weight' holds NaN or an infinity\n")


def test_a_tied_head_is_stored_once(shop: Workshop) -> None:
    tensors = llama() | {HEAD: llama()[EMBEDDING].clone()}
    context, outcome = run(shop, foreign(shop, tensors, tie_word_embeddings=True))
    assert read_model(context.out).tensors.keys() == tensors.keys() - {HEAD}
    assert outcome.notes[0] == f"{HEAD} is tied to {EMBEDDING} and stored once"


def test_a_head_said_to_be_tied_but_of_its_own_values_is_refused(shop: Workshop) -> None:
    assert refusal(shop, foreign(shop, tie_word_embeddings=True)) == (
        f"'{HEAD}' and '{EMBEDDING}' differ, but tie_word_embeddings says that they are one\n"
        "  where: vendor/config.json\n"
        "  mend: set tie_word_embeddings to false if the head has weights of its own, else remove the head"
    )


def test_an_untied_head_is_kept_even_when_equal(shop: Workshop) -> None:
    tensors = llama() | {HEAD: llama()[EMBEDDING].clone()}
    context, _ = run(shop, foreign(shop, tensors, tie_word_embeddings=False))
    assert HEAD in read_model(context.out).tensors


def test_tensors_of_no_known_component_are_kept_in_a_file_of_their_own_and_noted(shop: Workshop) -> None:
    tensors = llama() | {"visual.patch.weight": torch.ones(3), "visual.ids": torch.arange(3)}
    context, outcome = run(shop, foreign(shop, tensors))
    model = read_model(context.out)
    assert set(model.shards["model-00008-of-00008.safetensors"].tensors) == {"visual.patch.weight", "visual.ids"}
    assert outcome.notes[1] == "tensors of no known component: visual.ids, visual.patch.weight"
    assert outcome.components[-1].component == "unknown"


def test_weights_beside_those_of_the_index_are_left_out(shop: Workshop) -> None:
    folder = foreign(shop)
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    context, outcome = run(shop, folder)
    assert outcome.notes[0].startswith("left out: README.md, consolidated.safetensors, ")
    assert not (context.out / "consolidated.safetensors").exists()


# Adapters


def foreign_adapter(shop: Workshop, tensors: Mapping[str, torch.Tensor] | None = None, **config: object) -> Path:
    from safetensors.torch import save_file  # noqa: PLC0415

    folder = shop.root / "voice"
    folder.mkdir()
    factors = lora({QUERY: (HIDDEN, HIDDEN)}) if tensors is None else tensors
    save_file(dict(factors), folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["v_proj", "q_proj"]}
    settings["base_model_name_or_path"] = "../../somewhere"
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    for name in ("README.md", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def test_an_adapter_comes_in_with_the_digest_of_its_base(shop: Workshop) -> None:
    base = shop.model()
    context, outcome = run(shop, foreign_adapter(shop), shop.input("base", base), adapter=True)
    artifact = Artifact.from_folder(context.out, "adapter", outcome.written)
    artifact.verify_folder(context.out)
    assert [file.path for file in artifact.files] == ["adapter_config.json", "adapter_model.safetensors"]
    header = read_adapter_header(context.out)
    assert Provenance.from_metadata(header, where="test") == Provenance(
        kind="import",
        method="adapter",
        components=("attention.query",),
        layers="0",
        inputs=(ProvenanceInput(role="base", weights_digest=weights_digest(base)),),
    )
    config = json.loads((context.out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == ""
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert outcome.type == "adapter"
    assert outcome.notes == ("left out: README.md, tokenizer.json",)


def read_adapter_header(folder: Path) -> Mapping[str, str]:
    from registry.safetensors import read_header  # noqa: PLC0415

    return read_header(folder / "adapter_model.safetensors").metadata


def test_an_adapter_that_does_not_fit_its_stated_base_is_refused(shop: Workshop) -> None:
    folder = foreign_adapter(shop, lora({"model.layers.5.self_attn.q_proj": (HIDDEN, HIDDEN)}))
    assert "is on model.layers.5.self_attn.q_proj, which the model has not" in refusal(
        shop, folder, shop.input("base", shop.model()), adapter=True
    )


def test_an_adapter_with_nan_is_refused(shop: Workshop) -> None:
    factors = lora({QUERY: (HIDDEN, HIDDEN)})
    name = next(iter(factors))
    factors[name][0, 0] = math.nan
    found = refusal(shop, foreign_adapter(shop, factors), shop.input("base", shop.model()), adapter=True)
    assert found.startswith(f"tensor '{name}' holds NaN or an infinity\n")


def test_an_adapter_as_a_pickle_is_refused(shop: Workshop) -> None:
    folder = foreign_adapter(shop)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    found = refusal(shop, folder, shop.input("base", shop.model()), adapter=True)
    assert found.startswith("the weights are pickles (adapter_model.bin); only safetensors are read\n")
