"""A repository with a stage of every kind that makes weights from weights: its inputs built, those stages not."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import pytest
import torch
from tokenizers import Tokenizer, models

from registry.artifact import LISTING, Artifact
from tests.forked import Commands
from tests.workshop import DOWN, HIDDEN, INNER, QUERY, Workshop, llama, lora

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONFIG: Final = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "max_position_embeddings": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 16,
}
_MANIFEST: Final = """\
schema: 1
base: tiny
adapters:
  tone: {{path: sources/tone, sha256: "{tone}", base: tiny}}
  voice: {{path: sources/voice, sha256: "{voice}", base: tiny}}
stages:
  toned: {{kind: fold, from: base, adapters: {{tone: 1.0}}}}
  voiced: {{kind: fold, from: base, adapters: {{voice: 1.0}}}}
  fold: {{kind: fold, from: base, adapters: {{voice: 0.5, tone: 0.5}}}}
  fuse: {{kind: fuse, adapters: {{tone: 0.5, voice: 1.0}}, method: linear, rank: 3}}
  blend: {{kind: blend, method: ties, models: {{toned: {{density: 0.5}}, voiced: 0.3}}, against: base}}
  extract: {{kind: extract, from: toned, against: base, rank: 2}}
  graft: {{kind: graft, from: toned, layers: ["0-1", "1"], vocabulary: {{tokens: [quern]}}}}
  cast: {{kind: cast, from: toned, dtype: float32}}
release: graft
checks: []
"""


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Runs `varietal` in forks of one process."""
    with Commands() as started:
        yield started


@pytest.fixture(scope="session")
def prepared(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository; stages of the variant `mixed` that are not built have the names of their kinds. Copy it."""
    place = tmp_path_factory.mktemp("prepared")
    root, shop = place / "team", Workshop(root=place / "shop")
    (root / "models/mixed").mkdir(parents=True)
    base = shop.model(llama(dtype=torch.bfloat16), **_CONFIG)
    letters = {letter: number for number, letter in enumerate("abcdefgequrn")}
    Tokenizer(models.BPE(vocab=letters, merges=[])).save(str(base / "tokenizer.json"))
    modules = {QUERY: (HIDDEN, HIDDEN), DOWN: (HIDDEN, INNER)}
    sources = {
        "tiny": base,
        "tone": shop.adapter(base, lora(modules)),
        "voice": shop.adapter(base, lora(modules, seed=5)),
    }
    digests = {}
    for name, folder in sources.items():
        target = root / "sources" / name
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns(LISTING))
        digests[name] = Artifact.from_folder(target, "adapter").digest.hex
    (root / "models/mixed/model.yaml").write_text(_MANIFEST.format(**digests))
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    commands.must(root, "init", ".", "--base", "tiny=sources/tiny")
    commands.must(root, "compile")
    commands.must(root, "run", "bases", "tiny")
    for stage in ("tone", "voice", "toned", "voiced"):
        commands.must(root, "run", "mixed", stage)
    return root
