"""Every way of making weights from weights, run for real: one digest for each, to hold beside another machine's.

A repository is made whose inputs come from a counter-based generator of numpy, so that they are the same everywhere;
its stages run as `varietal run` does. `digests.json` beside this script holds what the first machine gave.

    python -m bench.same_bytes [--device cuda] [--threads 1] [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from builder.compiled import write_pipelines
from builder.graph import build_graph
from builder.kinds import KINDS
from builder.load import load
from builder.run import run_stage
from builder.sources import folder_pin
from registry.history import Repository
from registry.index import Index
from registry.safetensors import TensorSpec, Writer
from registry.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.record import Record

__all__ = ["DIGESTS", "run_all", "write_repository"]

DIGESTS: Final = Path(__file__).with_name("digests.json")

_HIDDEN, _INNER, _LAYERS, _WORDS = 192, 512, 3, 300
_MODELS: Final = {"first": 1, "second": 2, "third": 3}
_RANK: Final = 6

_MANIFEST: Final = """\
schema: 1
description: Every way of making weights from weights.
base: first
models: {second: second, third: third}
adapters:
  plain: {path: sources/plain, sha256: "PLAIN", base: first}
  scaled: {path: sources/scaled, sha256: "SCALED", base: first}
  norms: {path: sources/norms, sha256: "NORMS", base: first}
stages:
  fold: {kind: fold, from: base, adapters: {plain: 0.7}}
  fold-two: {kind: fold, from: base, adapters: {plain: [0, 1, 0.3], norms: 0.5}, order: [plain, norms]}
  fold-dora: {kind: fold, from: base, adapters: {scaled: 1.0}}
  fuse: {kind: fuse, adapters: {plain: 0.5, again: -0.25}}
  again: {kind: fuse, adapters: {plain: 0.3}}
  fuse-ties: {kind: fuse, adapters: {plain: 0.5, again: 1.0}, method: ties, density: 0.4, rank: 4}
  extract: {kind: extract, from: fold, against: base, rank: 6}
  linear: {kind: blend, method: linear, models: {second: 0.3, third: 0.7}}
  slerp: {kind: blend, method: slerp, models: {second: 1.0}, against: base, settings: {t: [0.2, 0.8]}}
  nuslerp: {kind: blend, method: nuslerp, models: {second: 0.4, third: 0.6}}
  multislerp: {kind: blend, method: multislerp, models: {second: 0.4, third: 0.6}}
  karcher: {kind: blend, method: karcher, models: {second: {}, third: {}}}
  arithmetic: {kind: blend, method: task_arithmetic, models: {second: 0.4, third: 0.6}, against: base}
  ties: {kind: blend, method: ties, models: {second: {weight: 0.4, density: 0.3}, third: 0.6}, against: base}
  dare-linear:
    {kind: blend, method: dare_linear, models: {second: {weight: 0.4, density: 0.3}, third: 0.6}, against: base}
  dare-ties: {kind: blend, method: dare_ties, models: {second: {weight: 0.4, density: 0.3}, third: 0.6}, against: base}
  della: {kind: blend, method: della, models: {second: {density: 0.4}, third: {density: 0.6}}, against: base}
  breadcrumbs: {kind: blend, method: breadcrumbs, models: {second: {density: 0.8}, third: 0.6}, against: base}
  sce: {kind: blend, method: sce, models: {second: 1.0, third: 1.0}, against: base, settings: {select_topk: 0.3}}
  stock: {kind: blend, method: model_stock, models: {second: 1.0, third: 1.0}, against: base}
  nearswap: {kind: blend, method: nearswap, models: {second: 1.0}, against: base, settings: {t: 0.01}}
  fusion: {kind: blend, method: arcee_fusion, models: {second: 1.0}, against: base}
  stacked: {kind: blend, method: passthrough, models: {second: 1.0, third: 1.0}, layers: [{second: 0-1}, {third: 1-2}]}
  several:
    kind: blend
    method: linear
    models: {second: 0.3, third: {weight: 0.7, density: 0.5}}
    against: base
    methods: [{on: mlp, method: ties}, {on: attention.key, method: dare_ties, settings: {seed: 5}}]
  words: {kind: graft, from: base, vocabulary: {tokens: [quern, trestle], start: normal, multiple: 16}, untie: true}
  classes: {kind: graft, from: base, head: {type: classification, labels: [a, b], pad: "a"}}
  layers: {kind: graft, from: base, layers: [0-1, 1-2]}
  wide: {kind: cast, from: fold, dtype: float32}
  half: {kind: cast, from: wide, dtype: float16}
release: fold
checks: []
"""


def write_repository(root: Path) -> None:
    """Make a repository with three models, three adapters and the manifest of every kind."""
    sources = root / "sources"
    for name, seed in _MODELS.items():
        _write_model(sources / name, seed)
    pins = {name: _write_adapter(sources / name, name).upper() for name in ("plain", "scaled", "norms")}
    bases = "".join(
        f'  {name}: {{path: sources/{name}, sha256: "{folder_pin(sources / name).hex}"}}\n' for name in _MODELS
    )
    recipes = "".join(f"  {name}: {kind.recipe}\n" for name, kind in KINDS.items())
    (root / "params.yaml").write_text(f"bases:\n{bases}recipes:\n{recipes}defaults: {{}}\n")
    manifest = _MANIFEST
    for name, pin in pins.items():
        manifest = manifest.replace(f'"{name.upper()}"', f'"{pin.lower()}"')
    (root / "models/all").mkdir(parents=True)
    (root / "models/all/model.yaml").write_text(manifest)
    for command in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message=Begin")):
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@example.org")
        subprocess.run(["git", *identity, *command], cwd=root, check=True)
    write_pipelines(root)


def run_all(root: Path, *, device: str = "cpu", threads: int = 0) -> dict[str, Record]:
    """Run every stage of the repository, in order; the records by stage."""
    (root / ".varietal").mkdir(exist_ok=True)
    (root / ".varietal/runner.yaml").write_text(f"device: {device}\nthreads: {threads}\n")
    graph = build_graph(load(root))
    done: dict[str, Record] = {}
    waiting = list(graph.values())
    with Index.open(Repository(root)) as index:
        while waiting:
            ready = [
                node for node in waiting if not {edge.source for edge in node.edges} & {one.address for one in waiting}
            ]
            for node in ready:
                store = Store(root / ".varietal/store")
                done[str(node.address)] = run_stage(root, node.address, index=index, store=store, say=lambda _: None)
                waiting.remove(node)
    return {ref: record for ref, record in done.items() if KINDS[record.kind].weights}


def _draw(seed: int, name: str, shape: tuple[int, ...], scale: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers that depend on seed and name alone, on any machine: uniform ones, made of whole numbers."""
    key = int.from_bytes(name.encode()[-8:], "little")
    words = np.random.Generator(np.random.Philox(key=[seed, key])).integers(-(2**22), 2**22, size=shape)
    return (words.astype(np.float32) * np.float32(scale / 2**22)).astype(np.float32)


def _tensors() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (_WORDS, _HIDDEN),
        "model.norm.weight": (_HIDDEN,),
    }
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (_HIDDEN, _HIDDEN) for name in "qkvo"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (_INNER, _HIDDEN) for name in ("gate", "up")}
        shapes[f"{prefix}.mlp.down_proj.weight"] = (_HIDDEN, _INNER)
        shapes |= {f"{prefix}.{name}.weight": (_HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")}
    return shapes


def _write_model(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True)
    specs = [TensorSpec(name=name, dtype="BF16", shape=shape) for name, shape in _tensors().items()]
    with Writer(folder / "model.safetensors", specs, {"format": "pt"}) as writer:
        for spec in writer.order:
            wide = _draw(seed, spec.name, spec.shape, 0.1)
            writer.write((wide.view(np.uint32) >> 16).astype(np.uint16).data)  # bfloat16 is float32's upper half
        writer.finish()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "hidden_size": _HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": _INNER,
        "max_position_embeddings": 512,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": _LAYERS,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "vocab_size": _WORDS,
    }
    (folder / "config.json").write_text(json.dumps(config))
    letters = {chr(ord("a") + number): number for number in range(26)}
    vocabulary = letters | {f"<{number}>": number for number in range(26, _WORDS)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    parts = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    tokenizer = {"version": "1.0", "added_tokens": [], "model": model} | dict.fromkeys(parts)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def _write_adapter(folder: Path, kind: str) -> str:
    """Write an adapter as PEFT does, and return its pin."""
    tensors: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    for name, shape in _tensors().items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if kind == "norms" and name.endswith("k_proj.weight"):
            tensors[f"{module}.ia3_l"] = 1 + _draw(7, name, (shape[0], 1), 0.2)
        elif kind != "norms" and name.endswith(("q_proj.weight", "down_proj.weight")):
            tensors[f"{module}.lora_A.weight"] = _draw(8, name, (_RANK, shape[1]), 0.1)
            tensors[f"{module}.lora_B.weight"] = _draw(9, name, (shape[0], _RANK), 0.1)
            if kind == "scaled":
                tensors[f"{module}.lora_magnitude_vector"] = 1 + _draw(10, name, (shape[0],), 0.5)
    config: Mapping[str, object] = {"peft_type": "LORA", "r": _RANK, "lora_alpha": 12, "task_type": "CAUSAL_LM"}
    config = {**config, "target_modules": ["q_proj", "down_proj"], "use_dora": kind == "scaled"}
    if kind == "norms":
        config = {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": [], "task_type": "CAUSAL_LM"}
    folder.mkdir(parents=True)
    specs = [TensorSpec(name=name, dtype="F32", shape=values.shape) for name, values in tensors.items()]
    with Writer(folder / "adapter_model.safetensors", specs, {"format": "pt"}) as writer:
        for spec in writer.order:
            writer.write(tensors[spec.name].data)
        writer.finish()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder_pin(folder).hex


def main() -> None:
    """Parse, run, end with the JSON line."""
    parser = argparse.ArgumentParser(description="Digests of every weights kind, beside another machine's.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--write", action="store_true", help=f"write {DIGESTS.name} instead of comparing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder))
        records = run_all(Path(folder), device=options.device, threads=options.threads)
    exact = {ref: str(one.artifact.digest) for ref, one in records.items() if not one.depends_on}
    if options.write:
        DIGESTS.write_text(json.dumps(dict(sorted(exact.items())), indent=1) + "\n")
    recorded = json.loads(DIGESTS.read_text())
    for ref, record in records.items():
        verdict = "same" if recorded.get(ref) == str(record.artifact.digest) else "DIFFERS" if ref in exact else "-"
        because = f"depends on {', '.join(record.depends_on)}" if record.depends_on else ""
        print(f"{ref:18}{record.artifact.digest}  {verdict:8}{because}")
    same = sum(recorded[ref] == exact.get(ref) for ref in recorded)
    print(f"device {options.device}, {options.threads or len(os.sched_getaffinity(0))} threads")
    figure = {"ours": same, "peer": len(recorded), "unit": "digests", "ratio": round(same / len(recorded), 3)}
    print(json.dumps({"bench": f"same_bytes/{options.device}", **figure, "bound": 1.0, "holds": same == len(recorded)}))


if __name__ == "__main__":
    main()
