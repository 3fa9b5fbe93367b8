"""Sound folders with one thing wrong in them, at random, given to stages: refused in words, or what is made is sound.

The seeds are kept, so every run tries the same; `VARIETAL_MUTATIONS=5000` tries more of them. A fold has half of them.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch

from builder.weights.folder import read_model
from registry.artifact import LISTING, Artifact
from registry.errors import Error
from tests.staged import inputs_of, node_of, run_node
from tests.workshop import DOWN, HIDDEN, INNER, QUERY, WORDS, Workshop, llama, lora, weights_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from registry.artifact import ArtifactType

COUNT: Final = int(os.environ.get("VARIETAL_MUTATIONS", "80"))  # for each file
SHARD: Final = "model-00002-of-00007.safetensors"
FILES: Final = {
    "config": ("base", "config.json"),
    "index": ("base", "model.safetensors.index.json"),
    "shard": ("base", SHARD),
    "adapter config": ("tone", "adapter_config.json"),
    "adapter": ("tone", "adapter_model.safetensors"),
}
FOLD: Final = {"kind": "fold", "from": "base", "adapters": {"tone": 0.5}}
STAGES: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "base": (
        {"kind": "graft", "from": "base", "layers": ["1", "0-1"], "context": 16},
        {"kind": "graft", "from": "base", "rope": {"type": "yarn", "factor": 2}, "vocabulary": {"multiple": 32}},
        {"kind": "cast", "from": "base", "dtype": "float32"},
        {"kind": "blend", "method": "ties", "models": {"one": 1.0}, "against": "base"},
        {"kind": "extract", "from": "one", "against": "base", "rank": 2, "rest": "save"},
    ),
    "tone": (
        {"kind": "fuse", "adapters": {"tone": 0.5, "voice": 1.0}},
        {"kind": "fuse", "adapters": {"tone": 0.5, "voice": 1.0}, "method": "ties", "rank": 2},
    ),
}
CONFIG: Final = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "max_position_embeddings": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "vocab_size": WORDS,
}
ADAPTER: Final = {
    "alpha_pattern": {QUERY: 8},
    "bias": "none",
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "modules_to_save": None,
    "rank_pattern": {DOWN: 2},
    "target_modules": ["down_proj", "q_proj"],
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_dora": False,
    "use_rslora": False,
}
DEEP: Final = json.loads("[" * 60 + "]" * 60)
VALUES: Final = (
    *(None, True, False, -1, 0, 1, 2, 3, 10**6, 2**31, 2**53, 2**63, 10**30, 10**400, 0.5, -0.0, 1e300),
    *(float("nan"), float("inf"), "", "x", "é\u202e", "\ud800", "a" * 5000, "../up", "/etc/passwd", "BF16", "F8_E4M3"),
    *("model.norm.weight", "[", "(?P<", "LORA", "DORA", SHARD, "NaN"),
    *([], [[]], [None], [-1], [0], [2**62, 4], ["x"], DEEP, {}, {"": None}, {"x": {}}, {"q_proj": 10**12}),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    shop = Workshop(root=tmp_path_factory.mktemp("sound"))
    base = shop.model(llama(), **CONFIG)
    modules = {QUERY: (HIDDEN, HIDDEN), DOWN: (HIDDEN, INNER)}
    return {
        "base": base,
        "one": shop.model({name: 2 * tensor for name, tensor in llama().items()}, **CONFIG),
        "tone": shop.adapter(base, lora(modules), **ADAPTER),
        "voice": shop.adapter(base, lora(modules, seed=4), **ADAPTER),
    }


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the disk: thousands of tiny files, and none is kept."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def mutated(data: bytes, draw: random.Random, *, header: bool) -> bytes:
    """A file with one thing wrong: in its bytes, or in what its JSON says."""
    length = struct.unpack_from("<Q", data)[0] if header else len(data)
    begin = 8 if header else 0
    table, rest = data[begin : begin + length], data[begin + length :]
    kind = draw.choice(("bytes", "value", "value", "value", "length") if header else ("bytes", "value", "value"))
    if kind == "length":
        return struct.pack("<Q", draw.choice((0, 1, length - 8, length + 8, len(data), 2**31, 2**63))) + table + rest
    if kind == "bytes":
        table = changed_bytes(table, draw)
    else:
        value = json.loads(table)
        change(value, draw)
        table = json.dumps(value).encode("utf-8", "surrogatepass")
        table += b" " * (-len(table) % 8 if header else 0)
    return (struct.pack("<Q", len(table)) if header else b"") + table + rest


def changed_bytes(data: bytes, draw: random.Random) -> bytes:
    place, size = draw.randrange(len(data)), draw.choice((1, 1, 2, 8))
    middle = draw.choice(
        (
            bytes([data[place] ^ 1 << draw.randrange(8)]),
            b"",
            draw.randbytes(size),
            data[place : place + size] * 2,
            str(draw.randrange(10)).encode(),
        )
    )
    return data[:place] + middle + data[place + size :]


def places(value: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - any JSON
    """Each table or list in a value, with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def change(value: Any, draw: random.Random) -> None:  # noqa: ANN401 - any JSON
    """Give one key another value, another name, or none."""
    found = list(places(value))
    holder, key = draw.choice(found)
    what = draw.choice(("new", "new", "new", "near", "other", "gone", "renamed"))
    old = holder[key]
    if what == "gone":
        del holder[key]
    elif what == "renamed" and isinstance(holder, dict):
        holder[draw.choice((key + "x", key[:-1], key.upper(), "", "__metadata__", draw.choice(found)[1]))] = old
        holder.pop(key, None)
    elif what == "other":
        other, its = draw.choice(found)
        holder[key] = copy.deepcopy(other[its])
    elif what == "near" and isinstance(old, int):
        holder[key] = old + draw.choice((-8, -2, -1, 1, 2, 8))
    else:
        holder[key] = draw.choice(VALUES)


def survives(sound: Mapping[str, Path], which: str, data: bytes, stage: Mapping[str, Any], work: Path) -> str:
    """What a stage refuses a folder with that file for; empty where it makes something of it."""
    name, file = FILES[which]
    folders = dict(sound) | {name: work / "mutated"}
    shutil.copytree(sound[name], folders[name])
    (folders[name] / file).unlink()  # it may be linked
    (folders[name] / file).write_bytes(data)
    listed = is_listed(folders[name], Artifact.read(sound[name]).type)
    known = frozenset({weights_digest(sound["base"])})  # a mutated base counts as a descendant: else it went no further
    node = node_of(stage, models=["one"], adapters=["tone", "voice"])
    inputs = tuple(replace(one, ancestors=known) for one in inputs_of(node, folders))
    try:
        outcome = run_node(node, inputs, work / "out")
    except Error as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        assert refusal.what
        assert refusal.where
        assert refusal.mend
        return refusal.what
    assert listed, "what cannot be listed was taken"
    artifact = Artifact.from_folder(work / "out", outcome.type, outcome.written)
    artifact.verify_folder(work / "out")
    assert artifact == Artifact.from_folder(work / "out", outcome.type)
    if outcome.type == "model":
        made = read_model(work / "out").tensors
        assert all(bool(torch.isfinite(one.load().double()).all()) for one in made.values())
        before = read_model(folders["base"]).tensors
        assert stage is not FOLD or {one.spec for one in made.values()} == {one.spec for one in before.values()}
    return ""


def is_listed(folder: Path, kind: ArtifactType) -> bool:
    """Give the folder the listing of what is in it now; where that cannot be made, the old one stays, as a liar's."""
    try:
        listing = Artifact.from_folder(folder, kind)
    except Error:
        return False
    (folder / LISTING).unlink()
    listing.write(folder)
    return True


@pytest.mark.parametrize("which", FILES)
def test_one_thing_wrong_is_refused_or_does_no_harm(which: str, sound: Mapping[str, Path], tmp_path: Path) -> None:
    name, file = FILES[which]
    data = (sound[name] / file).read_bytes()
    refused = set()
    for seed in range(COUNT):
        draw = random.Random(f"{which} {seed}")  # noqa: S311 - to be drawn again
        wrong = mutated(data, draw, header=file.endswith(".safetensors"))
        stage = FOLD if seed % 2 else draw.choice(STAGES[name])
        work = tmp_path / str(seed)
        work.mkdir()
        try:
            refused.add(survives(sound, which, wrong, stage, work))
        except BaseException as error:
            error.add_note(f"{which}, seed {seed}, {stage}: {wrong[:2000]!r}")
            raise
        shutil.rmtree(work)
    assert len(refused) > COUNT // 10, "all are refused for the same few reasons: they do not reach what they should"


@pytest.mark.parametrize("stage", [FOLD, *STAGES["base"], *STAGES["tone"]], ids=lambda stage: stage["kind"])
def test_without_a_mutation_nothing_is_refused(
    stage: dict[str, Any], sound: Mapping[str, Path], tmp_path: Path
) -> None:
    assert survives(sound, "config", (sound["base"] / "config.json").read_bytes(), stage, tmp_path) == ""
