"""One artifact for one meaning: threads, block sizes, folders' names and the order of a manifest's keys decide no byte.

Every kind that makes weights from weights, as a manifest says it and the graph gives it to the stage.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch

from builder.blend_methods import BLEND_METHODS
from builder.weights.blend import operands
from builder.weights.stream import CPU, Scratch
from registry.artifact import Artifact
from tests.staged import inputs_of, node_of, run_node
from tests.workshop import DOWN, HIDDEN, INNER, QUERY, WORDS, Workshop, llama, lora

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.graph import Node
    from builder.stage import Outcome
    from registry.action import Action

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CONFIG: Final = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "max_position_embeddings": 32,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "vocab_size": WORDS,
}
MODELS: Final = ("one", "two", "three", "wordy", "wide", "tied", "learned")
ADAPTERS: Final = ("tone", "voice", "third", "dora")
BLEND_MODELS: Final = {"one": {"weight": 0.7}, "two": {"weight": 0.4}, "three": {"weight": 1.1}}
NUMBERS: Final = {"density": 0.6, "epsilon": 0.1, "gamma": 0.1}


def blends() -> Iterator[tuple[str, dict[str, Any]]]:
    """One stage for each method, with settings that make it do something."""
    for method, needs in BLEND_METHODS.items():
        models: dict[str, dict[str, Any]] = dict(list(BLEND_MODELS.items())[: needs.most or 3])
        if method == "passthrough":
            models = {"one": {"weight": 0.5}}
        numbers = {key: value for key, value in NUMBERS.items() if key in needs.source}
        models = {
            name: {key: value for key, value in said.items() if key in needs.source} | numbers
            for name, said in models.items()
        }
        stage: dict[str, Any] = {"kind": "blend", "method": method, "models": models}
        stage |= {"against": "base"} if needs.base != "unread" else {}
        stage |= {"settings": {"select_topk": 0.5}} if method == "sce" else {}
        yield f"blend {method}", stage


FUSED: Final = {"kind": "fuse", "adapters": {"tone": 0.5, "voice": [0.25, 1.0]}}
GRAFTED: Final = {"kind": "graft", "from": "base"}
NEW: Final = {"tokens": ["xab"], "special": ["yx"], "multiple": 32}
STAGES: Final[dict[str, dict[str, Any]]] = {
    "fold sums": {"kind": "fold", "from": "base", "adapters": {"tone": 0.5, "voice": 1.0, "third": -0.7}},
    "fold dora": {"kind": "fold", "from": "base", "adapters": {"dora": 0.5}},
    "fold in order": {
        "kind": "fold",
        "from": "base",
        "adapters": {"dora": 1.0, "tone": 1.0},
        "order": ["tone", "dora"],
    },
    "fold wide": {"kind": "fold", "from": "wide", "adapters": {"tone": 1.0}},
    "fuse concat": FUSED,
    "fuse linear": FUSED | {"method": "linear", "rank": 2},
    "fuse ties": FUSED | {"method": "ties", "rank": 2, "density": 0.5},
    "fuse dare_linear": FUSED | {"method": "dare_linear", "rank": 2, "density": 0.5},
    "fuse dare_ties": FUSED | {"method": "dare_ties", "energy": 0.9, "density": 0.5},
    "extract": {"kind": "extract", "from": "one", "against": "base", "rank": 2, "rest": "save"},
    **dict(blends()),
    "blend by rules": {
        "kind": "blend",
        "method": "linear",
        "models": {"one": [0.5, 1.0], "two": [{"on": ["mlp", "attention"], "value": 2.0}]},
        "against": "base",
        "methods": [{"on": "attention", "method": "ties"}],
    },
    "blend layers": {
        "kind": "blend",
        "method": "linear",
        "models": {"one": 0.3, "two": 1.0},
        "layers": [{"one": "0-1"}, {"two": "0", "one": "1"}],
    },
    "blend union": {
        "kind": "blend",
        "method": "linear",
        "models": {"one": 0.3, "wordy": 1.0},
        "tokenizer": "union",
        "against": "base",
    },
    "blend base": {
        "kind": "blend",
        "method": "task_arithmetic",
        "models": {"one": 0.3, "wordy": 1.0},
        "tokenizer": "base",
        "against": "base",
        "dtype": "float16",
    },
    **{
        f"graft {start}": GRAFTED | {"vocabulary": NEW | {"start": start}}
        for start in ("pieces", "mean", "normal", "zero")
    },
    "graft head": GRAFTED | {"head": {"type": "classification", "labels": ["no", "yes"], "seed": 3}},
    "graft all": GRAFTED
    | {"from": "tied", "untie": True, "layers": ["1", "0-1"], "rope": {"type": "yarn", "factor": 2}, "vocabulary": NEW},
    "graft positions": GRAFTED | {"from": "learned", "context": 9},
    "cast wide": {"kind": "cast", "from": "base", "dtype": "float32"},
    "cast narrow": {"kind": "cast", "from": "wide", "dtype": "bfloat16"},
    "cast some": {"kind": "cast", "from": "wide", "dtype": "float16", "targets": "mlp"},
}
MAY_DIFFER: Final = {"extract", *(name for name in STAGES if name.startswith("fuse ") and name != "fuse concat")}
"""What a decomposition makes; the record says that its bytes depend on the number of threads."""

TILE: Final = 16  # elements: so few that a tiny tensor has several tiles, as a large one has


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no waiting for the disk: hundreds of tiny files, and none is kept."""
    monkeypatch.setattr(operands, "TILE", TILE)
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """What the manifest's names stand for."""
    shop = Workshop(root=tmp_path_factory.mktemp("sources"))
    base = with_words(shop.model(llama(), **CONFIG), "abcdefghijkmnpxy")
    tied = with_words(shop.model(llama(tied=True), **CONFIG, tie_word_embeddings=True), "abcdefghijkmnpxy")
    modules = {QUERY: (HIDDEN, HIDDEN), DOWN: (HIDDEN, INNER)}
    found = {"base": base, "tied": tied, "wide": shop.model(llama(dtype=torch.float32), **CONFIG)}
    found["learned"] = shop.model(learned(), model_type="gpt2", n_positions=5, n_ctx=5)
    for seed, name in enumerate(("one", "two", "three")):
        found[name] = with_words(shop.model(near(llama(), seed), **CONFIG), "abcdefghijkmnpxy")
    found["wordy"] = with_words(shop.model(near(llama(), 9), **CONFIG), "bacdefghijkmnpxz")
    for seed, name in enumerate(("tone", "voice", "third")):
        found[name] = shop.adapter(base, lora(modules, seed=seed))
    magnitudes = {f"base_model.model.{QUERY}.lora_magnitude_vector": torch.linspace(0.5, 3, HIDDEN)}
    found["dora"] = shop.adapter(base, lora({QUERY: (HIDDEN, HIDDEN)}, seed=7) | magnitudes, use_dora=True)
    wide = {f"wide-{name}": shop.adapter(found["wide"], lora(modules, seed=1)) for name in ("tone",)}
    return found | wide


def with_words(folder: Path, letters: str) -> Path:
    """A model whose tokens are letters."""
    table = {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": {letter: number for number, letter in enumerate(letters)}, "merges": []},
    }
    (folder / "artifact.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(table))
    Artifact.from_folder(folder, "model").write(folder)
    return folder


def near(tensors: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """The same, a step away."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (one + 0.3 * torch.randn(one.shape, generator=generator)).to(one.dtype) for name, one in tensors.items()
    }


def learned() -> dict[str, torch.Tensor]:
    """As few tensors of GPT-2 as a graft looks at."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"wte.weight": (WORDS, HIDDEN), "wpe.weight": (5, HIDDEN), "h.0.ln_1.weight": (HIDDEN,)}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    artifact: Artifact
    action: Action
    outcome: Outcome


def node(name: str, *, other_order: bool = False) -> Node:
    return node_of(STAGES[name], models=MODELS, adapters=ADAPTERS, other_order=other_order)


def make(node: Node, folders: Mapping[str, Path], out: Path, *, threads: int = 1) -> Made:
    """Run a stage; every digest that it gave is checked against the bytes."""
    inputs = inputs_of(node, folders)
    outcome = run_node(node, inputs, out, threads=threads)
    artifact = Artifact.from_folder(out, outcome.type, outcome.written)
    artifact.verify_folder(out)
    return Made(artifact=artifact, action=node.action([one.digest for one in inputs]), outcome=outcome)


def of(name: str, folders: Mapping[str, Path]) -> Mapping[str, Path]:
    """The folders for one case: an adapter must be of the model that it is folded into."""
    return {**folders, "tone": folders["wide-tone"]} if name == "fold wide" else folders


@pytest.mark.parametrize("name", STAGES)
def test_nothing_but_the_meaning_decides_a_byte(
    name: str, folders: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, sources = node(name), of(name, folders)
    first = make(stage, sources, tmp_path / "first")
    assert ("threads" in first.outcome.depends_on) == (name in MAY_DIFFER)
    for threads in (2, 4):
        again = make(stage, sources, tmp_path / f"threads-{threads}", threads=threads)
        assert name in MAY_DIFFER or again.artifact.digest == first.artifact.digest, threads
    for size in (1, 48, 1000):
        with monkeypatch.context() as patch:
            patch.setattr(Scratch.__init__, "__defaults__", (size, CPU))
            assert make(stage, sources, tmp_path / f"block-{size}").artifact.digest == first.artifact.digest, size
    other = {key: tmp_path / "elsewhere" / f"z{number}" for number, key in enumerate(sorted(sources, reverse=True))}
    for key, folder in sources.items():
        shutil.copytree(folder, other[key])
    moved = make(node(name, other_order=True), other, tmp_path / "moved")
    assert moved.artifact.digest == first.artifact.digest
    assert moved.action.digest == first.action.digest
    assert moved.outcome.depends_on == first.outcome.depends_on
    assert moved.outcome.metrics == first.outcome.metrics
    assert moved.outcome.notes == first.outcome.notes
    assert moved.outcome.components == first.outcome.components


def test_every_kind_and_every_method_is_among_them() -> None:
    assert {one["kind"] for one in STAGES.values()} == {"fold", "fuse", "blend", "extract", "graft", "cast"}
    assert {one["method"] for one in STAGES.values() if one["kind"] == "blend"} == set(BLEND_METHODS)


@pytest.mark.parametrize("name", STAGES)
def test_the_order_in_a_mapping_is_really_another_one(name: str) -> None:
    """Else the test above would say nothing."""
    one, other = ([edge.name for edge in node(name, other_order=turn).edges] for turn in (False, True))
    assert sorted(one) == sorted(other)
    kind = STAGES[name]["kind"]
    several = len(STAGES[name].get("adapters", STAGES[name].get("models", {}))) > 1
    assert (one != other) == (several and kind in {"fold", "fuse", "blend"})
