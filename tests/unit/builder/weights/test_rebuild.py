"""A folder with some tensors added, removed or renamed: what is linked, and under which name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.folder import read_model
from builder.weights.layout import rebuild_model
from builder.weights.renamed import Renamed
from registry.artifact import Artifact
from registry.provenance import Provenance
from tests.workshop import Workshop, llama

if TYPE_CHECKING:
    from pathlib import Path

    from builder.weights.stream import Content

NEW = Provenance(kind="graft", method="layers")
NORM, QUERY = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def rebuilt(shop: Workshop, source: Path, contents: dict[str, Content], **files: bytes) -> Path:
    out = shop.folder()
    named = {name.replace("__", "."): data for name, data in files.items()}
    written = rebuild_model(out, model=read_model(source), contents=contents, files=named, provenance=NEW)
    artifact = Artifact.from_folder(out, "model", written)
    artifact.verify_folder(out)
    assert artifact == Artifact.from_folder(out, "model")
    return out


def test_the_same_tensors_give_the_same_folder_all_of_it_linked(shop: Workshop) -> None:
    source = shop.model()
    out = rebuilt(shop, source, dict(read_model(source).tensors))
    assert Artifact.from_folder(out, "model").digest == Artifact.read(source).digest


def test_a_file_that_holds_the_same_is_linked_under_its_new_number(shop: Workshop) -> None:
    source = shop.model()
    contents = {name: one for name, one in read_model(source).tensors.items() if ".mlp." not in name}
    contents = {name: one for name, one in contents.items() if "post_attention" not in name}
    out = rebuilt(shop, source, dict(contents))
    pairs = {1: 1, 2: 2, 3: 4, 4: 6, 5: 7}
    for new, old in pairs.items():
        after = (out / f"model-{new:05d}-of-00005.safetensors").read_bytes()
        assert after == (source / f"model-{old:05d}-of-00007.safetensors").read_bytes()
    assert json.loads((out / "model.safetensors.index.json").read_text())["weight_map"].keys() == contents.keys()


def test_a_tensor_less_or_of_another_name_is_another_file(shop: Workshop) -> None:
    source = shop.model()
    contents: dict[str, Content] = dict(read_model(source).tensors)
    contents["model.layers.0.self_attn.w.weight"] = Renamed(
        content=contents.pop(QUERY), name="model.layers.0.self_attn.w.weight"
    )
    contents[NORM] = Renamed(content=contents[NORM], name=NORM)  # the same bytes, but not known to be
    out = rebuilt(shop, source, contents)
    before, after = Artifact.read(source), Artifact.from_folder(out, "model")
    # Embedding, attention 1, both MLPs, head and the configuration are as they were.
    assert len({file.digest for file in before.files} & {file.digest for file in after.files}) == 6
    renamed = read_model(out).tensors["model.layers.0.self_attn.w.weight"].load()
    assert torch.equal(renamed, llama()[QUERY])
    assert after.tensors[-1].name == "model.norm.weight"
    metadata = read_model(out).shards["model-00002-of-00008.safetensors"].metadata
    assert Provenance.from_metadata(metadata, where="test") == NEW


def test_other_files_are_linked_or_written_and_none_is_lost(shop: Workshop) -> None:
    source = shop.model()
    (source / "tokenizer.json").write_text("{}")
    out = rebuilt(shop, source, dict(read_model(source).tensors), config__json=b"{1}", vocab__txt=b"a")
    assert (out / "tokenizer.json").read_bytes() == b"{}"
    assert (out / "config.json").read_bytes() == b"{1}"
    assert (out / "vocab.txt").read_bytes() == b"a"
    assert not (out / "artifact.json").exists()
