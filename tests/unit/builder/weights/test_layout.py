"""Folders on disk: shards by component, canonical bytes, what is linked, what is refused."""

from __future__ import annotations

import enum
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.folder import read_model
from builder.weights.layout import shard_tensors, write_adapter, write_model, write_new_model
from registry.artifact import Artifact
from registry.errors import InvalidError, NotFoundError
from registry.provenance import Provenance
from tests.workshop import Workshop, llama

if TYPE_CHECKING:
    from collections.abc import Callable

NEW = Provenance(kind="pretrain", method="full")
SFT = Provenance(kind="sft", method="full", components=("attention.query",), layers="0")
QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def test_shards_follow_the_network() -> None:
    names = [*llama(), "model.layers.0.mystery.weight", "visual.patch.weight"]
    first = "model.layers.0."
    assert shard_tensors(names)[:3] == (
        ("model.embed_tokens.weight",),
        (
            f"{first}input_layernorm.weight",
            f"{first}self_attn.k_proj.weight",
            f"{first}self_attn.o_proj.weight",
            f"{first}self_attn.q_proj.weight",
            f"{first}self_attn.v_proj.weight",
        ),
        (f"{first}mlp.down_proj.weight", f"{first}mlp.up_proj.weight", f"{first}post_attention_layernorm.weight"),
    )
    assert shard_tensors(names)[5:] == (
        ("model.norm.weight",),
        ("lm_head.weight",),
        ("model.layers.0.mystery.weight", "visual.patch.weight"),
    )


def test_shards_do_not_depend_on_the_order_of_names() -> None:
    assert shard_tensors(llama()) == shard_tensors(reversed(list(llama())))


def test_layers_are_counted_not_spelled() -> None:
    groups = shard_tensors(f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (10, 2, 1))
    assert [group[0].split(".")[2] for group in groups] == ["1", "2", "10"]


def test_a_new_model_has_an_index_that_names_every_tensor(shop: Workshop) -> None:
    folder = shop.model()
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(2 * tensor.numel() for tensor in llama().values())}
    assert index["weight_map"].keys() == llama().keys()
    assert index["weight_map"]["model.embed_tokens.weight"] == "model-00001-of-00007.safetensors"
    for name, tensor in llama().items():
        assert torch.equal(read_model(folder).tensors[name].load(), tensor)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_bytes_do_not_depend_on_threads(shop: Workshop, threads: int) -> None:
    digests = set()
    for count in (1, threads):
        out = shop.folder()
        written = write_new_model(out, tensors=llama(), files={}, provenance=NEW, threads=count)
        digests.add(Artifact.from_folder(out, "model", written).digest)
    assert len(digests) == 1


def test_memory_with_two_names_is_stored_once_under_the_first_of_the_network(shop: Workshop) -> None:
    tensors = llama()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    out = shop.folder()
    write_new_model(out, tensors=tensors, files={}, provenance=NEW)
    assert "lm_head.weight" not in read_model(out).tensors
    assert "model.embed_tokens.weight" in read_model(out).tensors


def test_rows_of_one_memory_are_tensors_of_their_own(shop: Workshop) -> None:
    both = torch.arange(32, dtype=torch.float32).view(2, 16)
    out = shop.folder()
    write_new_model(out, tensors={"a": both[0], "b": both[1], "c": both[:, 0]}, files={}, provenance=NEW)
    assert read_model(out).tensors["c"].load().tolist() == [0, 16]
    assert read_model(out).tensors["b"].load().tolist() == both[1].tolist()


def test_replaced_tensors_are_rounded_to_the_dtype_of_the_source_and_the_rest_is_linked(shop: Workshop) -> None:
    source, out = shop.model(), shop.folder()
    exact = torch.full((8, 8), 1 + 2.0**-8 + 2.0**-40, dtype=torch.float64)
    written = write_model(out, source=source, replaced={QUERY: exact}, provenance=SFT)
    assert torch.equal(read_model(out).tensors[QUERY].load(), torch.full((8, 8), 1 + 2.0**-7, dtype=torch.bfloat16))
    after = Artifact.from_folder(out, "model", written)
    after.verify_folder(out)
    before = Artifact.read(source)
    assert {file.path for file in set(after.files) - set(before.files)} == {"model-00002-of-00007.safetensors"}
    assert {file.path for file in written} == {file.path for file in before.files}
    metadata = read_model(out).shards["model-00002-of-00007.safetensors"].metadata
    assert Provenance.from_metadata(metadata, where="test") == SFT


def test_replacing_by_the_same_values_keeps_the_weights_digest(shop: Workshop) -> None:
    source, out = shop.model(), shop.folder()
    write_model(out, source=source, replaced=llama(), provenance=SFT)
    assert Artifact.from_folder(out, "model").weights_digest == Artifact.read(source).weights_digest


def test_a_tied_head_among_the_replaced_is_left_out(shop: Workshop) -> None:
    source, out = shop.model(llama(tied=True), tie_word_embeddings=True), shop.folder()
    embedding = torch.ones(16, 8)
    replaced = {"lm_head.weight": embedding, "model.embed_tokens.weight": embedding}
    write_model(out, source=source, replaced=replaced, provenance=SFT)
    assert torch.equal(read_model(out).tensors["model.embed_tokens.weight"].load(), embedding.bfloat16())


@pytest.mark.parametrize(
    ("replaced", "what"),
    [
        ({"lm_tail.weight": torch.ones(2)}, "tensor 'lm_tail.weight' is not in the model"),
        ({QUERY: torch.ones(8, 7)}, f"tensor '{QUERY}' is BF16 [8, 7], the model has BF16 [8, 8]"),
        ({QUERY: torch.ones(8, 8, dtype=torch.int64)}, f"tensor '{QUERY}' is I64 [8, 8], the model has BF16 [8, 8]"),
        ({QUERY: torch.full((8, 8), math.nan)}, f"tensor '{QUERY}' holds NaN or an infinity"),
        ({QUERY: torch.full((8, 8), 1e39, dtype=torch.float64)}, f"values of '{QUERY}' are beyond what BF16 can hold"),
    ],
)
def test_what_does_not_belong_is_refused(shop: Workshop, replaced: dict[str, torch.Tensor], what: str) -> None:
    out = shop.folder()
    with pytest.raises(InvalidError) as caught:
        write_model(out, source=shop.model(), replaced=replaced, provenance=SFT)
    assert caught.value.what == what
    assert not (out / "model-00002-of-00007.safetensors").exists()


# Adapters


class Kind(enum.Enum):
    LORA = "LORA"


def test_an_adapter_configuration_has_sorted_lists_and_no_places_of_this_machine(shop: Workshop) -> None:
    out = shop.folder()
    config = {
        "peft_type": Kind.LORA,
        "target_modules": {"v_proj", "q_proj", "k_proj"},
        "modules_to_save": ["z", "a"],
        "alora_invocation_tokens": [3, 1],
        "base_model_name_or_path": "/home/someone/model",
        "revision": "main",
        "auto_mapping": {"base_model_class": "X"},
        "inference_mode": False,
        "rank_pattern": {"q_proj": 2},
    }
    written = write_adapter(out, tensors={"w": torch.ones(2)}, config=config, provenance=SFT)
    assert [file.path for file in written] == ["adapter_model.safetensors", "adapter_config.json"]
    text = (out / "adapter_config.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    assert json.loads(text) == {
        "peft_type": "LORA",
        "target_modules": ["k_proj", "q_proj", "v_proj"],
        "modules_to_save": ["a", "z"],
        "alora_invocation_tokens": [3, 1],
        "base_model_name_or_path": "",
        "revision": None,
        "auto_mapping": None,
        "inference_mode": True,
        "rank_pattern": {"q_proj": 2},
    }
    Artifact.from_folder(out, "adapter", written).verify_folder(out)


def test_a_configuration_that_json_cannot_say_is_refused(shop: Workshop) -> None:
    with pytest.raises(InvalidError) as caught:
        write_adapter(shop.folder(), tensors={"w": torch.ones(2)}, config={"fn": Path()}, provenance=SFT)
    assert caught.value.what == "fn is a PosixPath, which JSON cannot say"


# Reading


def _index(folder: Path, change: Callable[[dict[str, str]], None]) -> None:
    path = folder / "model.safetensors.index.json"
    table = json.loads(path.read_text())
    change(table["weight_map"])
    path.unlink()
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "sub/a.safetensors", "a.bin", ".hidden.safetensors", ""]
)
def test_a_weight_map_that_leaves_its_folder_is_refused(shop: Workshop, name: str) -> None:
    folder = shop.model()
    _index(folder, lambda table: table.update({QUERY: name}))
    with pytest.raises(InvalidError) as caught:
        read_model(folder)
    assert str(caught.value) == (
        f"the weight map points to {name!r}; it must name safetensors files of its own folder\n"
        f"  where: {folder / 'model.safetensors.index.json'}\n"
        "  mend: do not use this model: its index reaches outside of it or names other files"
    )


def test_an_index_and_files_that_contradict_each_other_are_refused(shop: Workshop) -> None:
    folder = shop.model()
    _index(folder, lambda table: table.update({QUERY: "model-00001-of-00007.safetensors"}))
    with pytest.raises(InvalidError) as caught:
        read_model(folder)
    assert caught.value.what == (
        f"tensor '{QUERY}': the index says model-00001-of-00007.safetensors, it is in model-00002-of-00007.safetensors"
    )
    _index(
        folder,
        lambda table: table.update(
            {QUERY: "model-00002-of-00007.safetensors", "ghost": "model-00001-of-00007.safetensors"}
        ),
    )
    with pytest.raises(InvalidError) as caught:
        read_model(folder)
    assert caught.value.what == "tensor 'ghost': the index says model-00001-of-00007.safetensors, it is in no file"


def test_one_tensor_in_two_files_is_refused(shop: Workshop) -> None:
    folder = shop.model()
    (folder / "more.safetensors").write_bytes((folder / "model-00001-of-00007.safetensors").read_bytes())
    _index(folder, lambda table: table.update({"x": "more.safetensors"}))
    with pytest.raises(InvalidError) as caught:
        read_model(folder)
    assert caught.value.what == (
        "tensor 'model.embed_tokens.weight' is in model-00001-of-00007.safetensors and in more.safetensors"
    )


def test_a_missing_shard_is_named(shop: Workshop) -> None:
    folder = shop.model()
    (folder / "model-00003-of-00007.safetensors").unlink()
    with pytest.raises(NotFoundError) as caught:
        read_model(folder)
    assert caught.value.what == "model-00003-of-00007.safetensors is not there"


def test_a_symlink_for_a_shard_is_refused(shop: Workshop, tmp_path: Path) -> None:
    folder = shop.model()
    shard = folder / "model-00003-of-00007.safetensors"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidError) as caught:
        read_model(folder)
    assert caught.value.what == "model-00003-of-00007.safetensors is a symlink, a folder or a special file"


def test_a_folder_without_weights_is_refused(shop: Workshop) -> None:
    folder = shop.folder()
    with pytest.raises(NotFoundError) as caught:
        read_model(folder)
    assert caught.value.what == "there is neither model.safetensors nor model.safetensors.index.json"


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_tensor_that_is_copied_into_a_new_file_is_looked_at(shop: Workshop, value: float) -> None:
    tensors = llama()
    key = QUERY.replace("q_proj", "k_proj")
    tensors[key][1, 1] = value
    tensors["model.norm.weight"][1] = value  # in a file that is linked, and so taken as it is
    source = shop.unsound(tensors)
    with pytest.raises(InvalidError) as caught:
        write_model(shop.folder(), source=source, replaced={QUERY: tensors[QUERY]}, provenance=SFT)
    assert str(caught.value) == (
        f"tensor {key!r} holds NaN or an infinity\n"
        f"  where: {source}/model-00002-of-00007.safetensors\n"
        "  mend: use weights that are sound: import the model again, or train with a lower learning rate"
    )
    mlp = "model.layers.0.mlp.up_proj.weight"
    write_model(out := shop.folder(), source=source, replaced={mlp: tensors[mlp]}, provenance=SFT)
    assert read_model(out).tensors[key].load().float()[1, 1].isfinite().item() is False


def test_a_configuration_that_leads_elsewhere_is_refused(shop: Workshop, tmp_path: Path) -> None:
    folder = shop.model()
    (folder / "config.json").rename(tmp_path / "elsewhere.json")
    model = read_model(folder)
    for target in (tmp_path / "elsewhere.json", tmp_path / "nowhere.json"):
        (folder / "config.json").symlink_to(target)
        with pytest.raises(InvalidError) as caught:
            model.config()
        assert caught.value.what == "config.json is a symlink, a folder or a special file"
        assert caught.value.where == str(folder)
        (folder / "config.json").unlink()
    with pytest.raises(NotFoundError) as missing:
        model.config()
    assert missing.value.what == "there is no config.json"
