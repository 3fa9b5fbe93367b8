"""Stages run for real: an adapter on rows of tokens, and blends that leave those rows in place or do not."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from builder.compiled import write_pipelines
from builder.graph import build_graph
from builder.kinds import KINDS
from builder.load import load
from builder.run import run_stage
from builder.sources import folder_pin
from registry.errors import InvalidError
from registry.history import Repository
from registry.index import Index
from registry.record import Renumbered
from registry.store import Store
from tests.workshop import HIDDEN, QUERY, WORDS, llama, lora

if TYPE_CHECKING:
    from pathlib import Path

    from registry.record import Record

MANIFEST = """\
schema: 1
base: first
models: {second: second}
adapters:
  marks: {path: sources/marks, sha256: "MARKS", base: second}
  plain: {path: sources/plain, sha256: "PLAIN", base: second}
  ours: {path: sources/ours, sha256: "OURS", base: first}
stages:
  mixed: {kind: blend, method: linear, models: {second: 1.0}, against: base, tokenizer: base}
  half: {kind: cast, from: mixed, dtype: float16}
  marked: {kind: fold, from: half, adapters: {marks: 1.0}}
  plainly: {kind: fold, from: half, adapters: {plain: 1.0}}
  own: {kind: fold, from: half, adapters: {ours: 1.0}}
release: plainly
checks: []
"""


def write_model(folder: Path, words: list[str], scale: float) -> None:
    folder.mkdir(parents=True)
    save_file({name: tensor * scale for name, tensor in llama().items()}, folder / "model.safetensors")
    config = {"model_type": "llama", "vocab_size": WORDS, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {word: number for number, word in enumerate(words)}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    table = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(table | parts))


def write_adapter(folder: Path, *, marks: bool) -> None:
    folder.mkdir(parents=True)
    tensors, config = lora({QUERY: (HIDDEN, HIDDEN)}), {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    if marks:
        tensors["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"] = torch.ones(1, HIDDEN)
        config["trainable_token_indices"] = {"embed_tokens": [3]}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    words = [chr(ord("a") + number) for number in range(WORDS)]
    sources = tmp_path / "sources"
    write_model(sources / "first", words, 1.0)
    write_model(sources / "second", words[::-1], 0.5)
    manifest = MANIFEST
    for name in ("marks", "plain", "ours"):
        write_adapter(sources / name, marks=name != "plain")
        manifest = manifest.replace(name.upper(), folder_pin(sources / name).hex)
    bases = "".join(
        f'  {name}: {{path: sources/{name}, sha256: "{folder_pin(sources / name).hex}"}}\n'
        for name in ("first", "second")
    )
    recipes = "".join(f"  {name}: {kind.recipe}\n" for name, kind in KINDS.items())
    (tmp_path / "params.yaml").write_text(f"bases:\n{bases}recipes:\n{recipes}defaults: {{}}\n")
    (tmp_path / "models/moved").mkdir(parents=True)
    (tmp_path / "models/moved/model.yaml").write_text(manifest)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    write_pipelines(tmp_path)
    return tmp_path


def test_rows_of_tokens_are_followed_through_stages(repository: Path) -> None:
    graph = {str(address): address for address in build_graph(load(repository))}

    def run(ref: str) -> Record:
        with Index.open(Repository(repository)) as index:
            store = Store(repository / ".varietal/store")
            return run_stage(repository, graph[ref], index=index, store=store, say=lambda _: None)

    for name in ("bases:first", "bases:second", "moved:marks", "moved:plain", "moved:ours"):
        run(name)
    second = run("bases:second").artifact.digest
    assert run("moved:mixed").renumbered == (Renumbered(digest=second, what="tokens"),)
    run("moved:half")
    with pytest.raises(InvalidError) as caught:
        run("moved:marked")
    assert caught.value.what.startswith("adapter marks changes rows of tokens in 'model.embed_tokens.weight'; it was ")
    assert caught.value.what.endswith(", and a blend between them and half gave the tokens other rows")
    for name in ("plainly", "own"):  # what touches no token, and what was trained on the model whose order was kept
        (note,) = run(f"moved:{name}").notes
        assert note.endswith(", an ancestor of half")
