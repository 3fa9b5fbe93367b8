"""A mergekit file and the manifest that it becomes make the same model: mergekit runs the one, we run the other.

Runs under a Python that has mergekit 0.1.5, named by VARIETAL_MERGEKIT_PYTHON. mergekit sums in float32 here, so its
numbers are compared to within that. What a model's tokens are is compared by what they are looked up as.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer

from builder.mergekit.translation import translate
from builder.runner import Runner
from builder.shapes import Reading
from builder.stage import Context, Input
from builder.stages.blend import blend
from builder.tables import read
from builder.weight_stages import BlendStage
from builder.weights.folder import read_model
from registry.artifact import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.conftest import MakeModel

pytestmark = pytest.mark.mergekit

PEER = """
import json, sys, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
for name, text in json.load(open(sys.argv[1] + "/cases.json")).items():
    config = MergeConfiguration.model_validate(yaml.safe_load(text))
    run_merge(config, f"{sys.argv[1]}/{name}", MergeOptions(quiet=True, write_model_card=False))
"""

CASES = {
    "linear": """
merge_method: linear
models:
- model: a
  parameters:
    weight:
    - {filter: self_attn, value: [0.1, 0.9, 0.3]}
    - {filter: norm, value: 0.25}
    - {filter: down_proj, value: [1, 2]}
    - {value: [0.5, 0.75]}
- {model: b, parameters: {weight: 0.5}}
- {model: c}
parameters: {weight: [{filter: mlp, value: [0.2, 0.4]}, {value: 0.6}]}
""",
    "slerp": """
merge_method: slerp
base_model: a
slices:
- sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]
parameters:
  t:
  - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
  - {filter: mlp, value: [1, 0.5, 0]}
  - {filter: lm_head, value: 1}
  - {value: 0.5}
""",
    "ties": """
merge_method: ties
base_model: a
models:
- {model: b, parameters: {weight: 0.7, density: 0.5}}
- {model: c, parameters: {weight: [0.2, 0.8], density: [{filter: mlp, value: 0.3}, {value: 0.8}]}}
parameters: {normalize: true, lambda: [0.5, 1.5]}
""",
    "stack": """
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 2]}]
- sources: [{model: a, layer_range: [1, 4], parameters: {scale: [{filter: o_proj, value: 0}, {value: 1}]}}]
- sources: [{model: b, layer_range: [3, 4]}]
""",
    "slices": """
merge_method: task_arithmetic
base_model: a
slices:
- sources:
  - {model: a, layer_range: [0, 2]}
  - {model: b, layer_range: [0, 2], parameters: {weight: [0.2, 0.6]}}
- sources:
  - {model: a, layer_range: [1, 4]}
  - {model: c, layer_range: [0, 3], parameters: {weight: [{filter: mlp, value: [0.1, 0.7, 0.9]}, {value: 0.5}]}}
parameters: {lambda: [0.9, 0.3]}
""",
    "base": """
merge_method: linear
base_model: a
models: [{model: a, parameters: {weight: 0.4}}, {model: d, parameters: {weight: 0.6}}]
tokenizer_source: base
""",
    "union": """
merge_method: linear
models:
- {model: a, parameters: {weight: 0.4}}
- {model: d, parameters: {weight: 0.6}}
- {model: e, parameters: {weight: 0.3}}
tokenizer_source: union
""",
    "task-union": """
merge_method: task_arithmetic
base_model: d
models: [{model: a, parameters: {weight: 0.4}}, {model: e, parameters: {weight: 0.3}}]
tokenizer: {source: union}
""",
}


@pytest.fixture(scope="module")
def models(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Three models with one vocabulary, and two with tokens of their own."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}
    for seed, name in enumerate("abcde"):
        made[name] = folder / name
        shutil.copytree(make_model("llama", layers=4, seed=seed), made[name])
    add_tokens(made["d"], "<|left|>", "<|both|>")
    add_tokens(made["e"], "<|both|>", "<|right|>", "<|more|>")
    for path in made.values():
        Artifact.from_folder(path, "model").write(path)
    return made


def add_tokens(path: Path, *tokens: str) -> None:
    """Put tokens into a model, with random rows."""
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    tokenizer.save(str(path / "tokenizer.json"))
    tensors = load_file(path / "model.safetensors")
    generator = torch.Generator().manual_seed(len(tokens))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = torch.randn(len(tokens), tensors[name].shape[1], generator=generator)
        tensors[name] = torch.cat([tensors[name], rows])
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["vocab_size"] += len(tokens)
    (path / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def theirs(models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what mergekit makes of every case."""
    out = tmp_path_factory.mktemp("mergekit")
    texts = {name: named(text, {key: str(path) for key, path in models.items()}) for name, text in CASES.items()}
    (out / "cases.json").write_text(json.dumps(texts))
    python = os.environ["VARIETAL_MERGEKIT_PYTHON"]
    subprocess.run([python, "-c", PEER, str(out)], check=True)
    return out


def named(text: str, names: Mapping[str, str]) -> str:
    """A case with the models' names put in."""
    for name, path in names.items():
        text = text.replace(f"model: {name},", f"model: {path},").replace(f"model: {name}}}", f"model: {path}}}")
        text = text.replace(f"model: {name}\n", f"model: {path}\n")
    return text


def ours(text: str, models: Mapping[str, Path], folder: Path) -> Path:
    """What our stage makes of the same case."""
    manifest = cast("dict[str, Any]", translate(named(text, {name: f"models/{name}" for name in models}), "x").manifest)
    table = manifest["stages"]["merged"]
    reading = Reading(file="model.yaml")
    stage = read(BlendStage, table, reading)
    assert stage is not None
    assert not reading.faults

    def input_(role: str, name: str, said: dict[str, Any]) -> Input:
        artifact = Artifact.read(models[name])
        layers = [[place, entry[name]] for place, entry in enumerate(stage.layers) if name in entry]
        settings = said | ({"layers": layers} if layers else {})
        return Input(
            role=role,
            name=name,
            path=models[name],
            digest=artifact.digest,
            artifact=artifact,
            format="",
            settings=settings,
            source=f"bases:{name}",
        )

    sources = {name: one if isinstance(one, dict) else {"weight": one} for name, one in table["models"].items()}
    inputs = [input_("model", name, said) for name, said in sources.items()]
    inputs += [input_("against", stage.against, {})] if stage.against else []
    (folder / "out").mkdir()
    context = Context(
        settings=stage,
        inputs=tuple(inputs),
        work=folder,
        out=folder / "out",
        root=folder,
        runner=Runner(threads=1),
        say=lambda _line: None,
    )
    blend(context)
    return context.out


@pytest.mark.parametrize("case", CASES)
def test_both_make_the_same_model(case: str, models: Mapping[str, Path], theirs: Path, tmp_path: Path) -> None:
    out = ours(CASES[case], models, tmp_path)
    found = {name: stored.load() for name, stored in read_model(out).tensors.items()}
    expected: dict[str, torch.Tensor] = {}
    for file in (theirs / case).glob("*.safetensors"):
        expected |= load_file(file)
    assert found.keys() == expected.keys()
    mine, yours = (tokens(path) for path in (out, theirs / case))
    assert mine.keys() == yours.keys()
    order = sorted(mine)
    for name, tensor in expected.items():
        by_token = name in {"model.embed_tokens.weight", "lm_head.weight"}
        left = found[name][[mine[token] for token in order]] if by_token else found[name]
        right = tensor[[yours[token] for token in order]] if by_token else tensor
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    config, peer = (json.loads((path / "config.json").read_text()) for path in (out, theirs / case))
    assert {key: config[key] for key in ("num_hidden_layers", "vocab_size")} == {
        key: peer[key] for key in ("num_hidden_layers", "vocab_size")
    }


def tokens(path: Path) -> dict[str, int]:
    vocabulary: dict[str, int] = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab(with_added_tokens=True)
    return vocabulary
