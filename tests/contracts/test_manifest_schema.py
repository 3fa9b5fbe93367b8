"""The dataclasses, the JSON Schemas in the tree and the reference in docs/ say the same."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from builder.manifest import read_manifest, read_project
from builder.schema import REFERENCE, manifest_schema, params_schema, written_files
from builder.shapes import Reading
from registry import yaml12

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from registry.canonical import JSON

HEX = "ab" * 32
COMMIT = "ab" * 20
MANIFEST = yaml12.load(
    f"""
schema: 1
description: x
deprecated: use other
formerly: [helper, clerk]
base: tiny
adapters:
  hub: {{hub: acme/concise, revision: "{COMMIT}", base: tiny}}
  folder: {{path: adapters/x, sha256: {HEX}, base: tiny}}
  stage: {{variant: other, stage: tone}}
  pinned: {{variant: other@v1.0.0, digest: "sha256:{HEX}"}}
data:
  chat: {{path: data/chat.jsonl, format: messages}}
stages:
  made:
    kind: pretrain
    data: prose
    network: {{architecture: gpt2, layers: 2, hidden_size: 64, heads: 4}}
    tokenizer: {{vocabulary: 300}}
    train: {{steps: 10, batch: 2}}
  tone:
    kind: sft
    from: base
    data: chat
    adapter: {{type: lora, rank: 8, alpha: 16, dropout: 0.1, rslora: true, targets: [attention.query, "*.bias"]}}
    train: {{epochs: 2, packing: false, loss_on: all, schedule: linear}}
  pref:
    kind: dpo
    from: toned
    data: pairs
    targets: {{components: [mlp], layers: "0-3,-1", tensors: "model.*", exclude: mlp.down}}
    train: {{beta: 0.2, loss: ipo}}
  toned: {{kind: fold, from: base, adapters: {{tone: 1.0, hub: -0.5}}}}
  score:
    kind: evaluate
    from: pref
    against: base
    metrics: {{kl: chat, loss: {{data: chat, turns: last}}, mine: {{metric: top1_agreement, data: chat}}}}
    limit: 100
release: toned
checks:
  - {{stage: score, metric: kl, min: 0, max: 1}}
  - {{stage: score, metric: loss, max_increase: 0.1}}
defaults:
  sft: {{train: {{batch: 4}}, adapter: {{rank: 4}}}}
  evaluate: {{batch: 2}}
""",
    "model.yaml",
).value
PARAMS = yaml12.load(
    f"""
bases:
  tiny: {{path: source/tiny, sha256: {HEX}}}
  big: {{hub: org/big, revision: "{COMMIT}"}}
recipes: {{import: 1, sft: 2}}
defaults:
  dpo: {{train: {{beta: 0.3, epochs: 3}}}}
  pretrain: {{network: {{context: 256}}}}
""",
    "params.yaml",
).value

KEYS = """
    schema deprecated formerly base adapters data stages release checks defaults kind from adapter targets train epochs
    steps batch hub path revision sha256 variant stage digest metric metrics turns min max max_increase against
    components layers tensors exclude format sft fold import tone Tone records mine bits_per_byte recipes bases x-y x_y
""".split()  # noqa: SIM905 - a list of so many words is easier to read without their quotes
WORDS = [*KEYS, "", "lora", "all", "a/b", "../b", "a@v1.0.0", HEX, f"sha256:{HEX}", COMMIT, "0-1", "0", "a b", "a.0.b"]
LEAVES = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from([None, True, False, 0, 1, 2, -1, 0.0, 1.0, 2.0, 0.5, 1.5, 3e5, 10**12, 2**60, -0.5]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=4,
)


def accepts_manifest(value: JSON) -> bool:
    reading = Reading(file="model.yaml")
    read_manifest("support", value, reading)
    return not reading.faults


def accepts_params(value: JSON) -> bool:
    reading = Reading(file="params.yaml")
    read_project(value, reading)
    return not reading.faults


def places(value: JSON, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every key path of a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def near(value: JSON) -> st.SearchStrategy[JSON]:
    """Values of the same type, many of which will do."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int | float):
        return st.sampled_from([1, 2, 1.0, 8, 64.0, 0, 0.25, 300])
    if isinstance(value, str):
        return st.sampled_from(["base", "tone", "chat", "mlp", "kl", "all", "text", "linear", value])
    return st.just(value)


@st.composite
def mutated(draw: st.DrawFn, document: JSON) -> JSON:
    """The document with a few values replaced, keys added, taken out or renamed."""
    holder: dict[str, JSON] = {"root": copy.deepcopy(document)}
    for _ in range(draw(st.integers(1, 2))):
        *way, last = draw(st.sampled_from(places(holder["root"], ("root",))))
        parent: JSON = holder
        for key in way:
            parent = parent[key]  # type: ignore[index, call-overload] - the path is one of this document's
        change = draw(st.sampled_from(["nudge", "nudge", "nudge", "replace", "add", "remove", "rename"]))
        if change == "nudge":
            parent[last] = draw(near(parent[last]))  # type: ignore[index, call-overload] - the same
        elif change == "replace" or not way or not isinstance(parent, dict):
            parent[last] = draw(VALUES)  # type: ignore[index, call-overload] - the same
        elif change == "add":
            parent[draw(st.sampled_from(KEYS))] = draw(VALUES)
        else:
            value = parent.pop(str(last))
            if change == "rename":
                parent[draw(st.sampled_from(KEYS))] = value
    return holder["root"]


@pytest.mark.parametrize("schema", [manifest_schema(), params_schema()], ids=["manifest", "params"])
def test_the_schemas_are_schemas(schema: dict[str, JSON]) -> None:
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "accepts", "document"),
    [(manifest_schema, accepts_manifest, MANIFEST), (params_schema, accepts_params, PARAMS)],
    ids=["manifest", "params"],
)
def test_good_documents_are_accepted_by_both(
    schema: Callable[[], JSON], accepts: Callable[[JSON], bool], document: JSON
) -> None:
    assert accepts(document)
    assert Draft202012Validator(schema()).is_valid(document)


MANIFEST_VALIDATOR = Draft202012Validator(manifest_schema())
PARAMS_VALIDATOR = Draft202012Validator(params_schema())


@pytest.mark.parametrize(
    ("path", "value", "accepted"),
    [
        ("stages.tone.train.steps", 5, False),  # beside epochs
        ("stages.pref.train.steps", 5, True),
        ("stages.pref.train.loss", {"sigmoid": 0.8, "sft": 0.2}, True),
        ("stages.pref.train.loss", {"sigmoid": 0}, False),
        ("stages.pref.train.loss", {}, False),
        ("stages.pref.train.loss", "sigmoyd", False),
        ("stages.made.from", "tone", False),  # beside network
        ("stages.tone.targets", "mlp", False),  # beside adapter
        ("stages.tone.adapter", {}, True),
        ("stages.pref.targets", [], False),
        ("stages.pref.targets", {}, False),
        ("stages.pref.targets", {"layers": 3}, True),
        ("stages.pref.targets", {"layers": []}, False),
        ("stages.toned.adapters", {}, False),
        ("stages.score.metrics", {}, False),
        ("stages.score.metrics.mine", "chat", False),  # a label that is no metric
        ("stages.score.metrics.kl", {"data": "chat"}, True),
        ("stages.score.metrics.kl", {}, False),
        ("stages.score.metrics.kl", {"metric": "loss", "data": "chat"}, True),
        ("stages.base", {"kind": "fold", "from": "base", "adapters": {"a": 1}}, False),
        ("stages.x", {"kind": "fold", "from": "base", "adapters": {"a": 1}}, True),
        ("stages.x", {"kind": "import"}, False),
        ("stages.x", {"from": "base", "adapters": {"a": 1}}, False),
        ("stages", {}, False),
        ("checks", [], True),
        ("checks", None, False),
        ("checks", [{"stage": "score", "metric": "kl"}], False),
        ("checks", [{"stage": "score", "metric": "kl", "max": 1, "max_increase": 1}], False),
        ("base", {"name": "tiny"}, False),  # a name is written as one
        ("base", {"variant": "other", "stage": "tone"}, True),
        ("base", {"variant": "other", "stage": "tone", "digest": f"sha256:{HEX}"}, False),
        ("adapters.x", "tiny", False),
        ("data.chat.path", "data/../x", False),
        ("data.chat.path", "data/..x", True),
        ("defaults.sft.data", "chat", False),
        ("defaults.sft.train.steps", 2, True),
        ("defaults.fold", {}, True),
        ("defaults.pretrain", {"network": {"context": 64}}, True),
        ("defaults.pretrain", {"network": {"layers": 2}}, False),  # each stage writes it
        ("schema", 1.0, True),
        ("schema", True, False),
        ("license", None, False),
    ],
)
def test_reader_and_schema_agree_on_every_rule(path: str, value: JSON, *, accepted: bool) -> None:
    document = copy.deepcopy(MANIFEST)
    *way, last = path.split(".")
    table: JSON = document
    for key in way:
        assert isinstance(table, dict)
        table = table[key]
    assert isinstance(table, dict)
    table[last] = value
    assert accepts_manifest(document) is accepted
    assert MANIFEST_VALIDATOR.is_valid(document) is accepted


@settings(max_examples=300, deadline=None)
@given(mutated(MANIFEST))
def test_reader_and_schema_agree_on_manifests(value: JSON) -> None:
    assert accepts_manifest(value) == MANIFEST_VALIDATOR.is_valid(value)


@settings(max_examples=200, deadline=None)
@given(mutated(PARAMS))
def test_reader_and_schema_agree_on_params(value: JSON) -> None:
    assert accepts_params(value) == PARAMS_VALIDATOR.is_valid(value)


@pytest.mark.parametrize(("path", "data"), written_files().items(), ids=lambda one: getattr(one, "name", ""))
def test_the_files_are_those_that_the_dataclasses_make(path: Path, data: bytes) -> None:
    assert path.read_bytes() == data, "run `python -m builder.schema`"


def test_the_example_in_the_reference_is_a_manifest() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    example = re.search(r"## An example\n\n```yaml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    assert accepts_manifest(yaml12.load(example[1], "docs/manifest.md").value)


def test_the_reference_has_every_table() -> None:
    definitions = {**_tables(manifest_schema()), **_tables(params_schema())}
    text = REFERENCE.read_text(encoding="utf-8")
    documented = set(re.findall(r"<!-- keys: (\w+) -->", text))
    # Sources are shown as examples; each of their keys is in one.
    shown = {"FolderAdapter", "FolderBase", "HubAdapter", "HubBase", "PinnedRef", "StageRef"}
    assert {"Manifest", "Project"} | (set(definitions) - shown) == documented
    for name in shown:
        for key in definitions[name]:
            assert f"{key}: " in text


def _tables(schema: dict[str, JSON]) -> dict[str, list[str]]:
    """Keys of every table in a schema, selectors, weightings and sets of defaults left out."""
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    tables: dict[str, list[str]] = {}
    for name, definition in definitions.items():
        assert isinstance(definition, dict)
        properties = definition.get("properties", {})
        assert isinstance(properties, dict)
        if (
            name not in {"Selector", "Defaults"}
            and not name.startswith("Weighting-")
            and not name.endswith(("-defaults", "-by-name"))
        ):
            tables[name] = list(properties)
    return tables
