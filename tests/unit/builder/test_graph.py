"""Manifests to stages: inputs with their roles, what an action keeps, which keys a stage reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.address import CodeFile
from builder.edges import Edge
from builder.graph import Address, DataFile, build_graph, resolve
from builder.load import Workspace
from builder.manifest import parse_manifest, parse_project
from registry import yaml12
from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.graph import Node

PARAMS = f"""
bases:
  tiny: {{path: sources/tiny, sha256: "{"a" * 64}"}}
  large: {{hub: acme/large, revision: "{"b" * 40}"}}
recipes: {{import: 1, pretrain: 1, sft: 1, dpo: 1, fold: 1, evaluate: 1}}
defaults:
  sft: {{train: {{batch: 32}}}}
"""
SUPPORT = f"""
schema: 1
base: tiny
adapters:
  concise: {{path: adapters/concise, sha256: "{"c" * 64}", base: tiny}}
  voice: {{variant: voice, stage: voice}}
data:
  talks: {{path: data/talks.jsonl, format: messages}}
  likes: {{path: data/likes.jsonl, format: preference}}
  heldout: {{path: data/heldout.jsonl, format: text}}
defaults:
  dpo: {{train: {{beta: 0.3}}}}
stages:
  tone: {{kind: sft, from: base, data: talks, adapter: {{rank: 4, targets: [mlp, attention]}}}}
  more: {{kind: sft, from: tone, data: talks}}
  toned: {{kind: fold, from: base, adapters: {{tone: 1.0, voice: 0.5}}}}
  pref: {{kind: dpo, from: toned, data: likes, targets: attention}}
  score: {{kind: evaluate, from: more, against: toned, metrics: {{kl: heldout, drift: {{metric: kl, data: talks}}}}}}
release: pref
"""
VOICE = f"""
schema: 1
base: {{variant: support@v1.0.0, digest: "sha256:{"d" * 64}"}}
data: {{talks: {{path: data/talks.jsonl, format: messages}}}}
stages:
  voice: {{kind: sft, from: base, data: talks, adapter: {{}}}}
release: voice
"""


def workspace(**manifests: str) -> Workspace:
    documents = {"support": SUPPORT, "voice": VOICE} | manifests
    return Workspace(
        project=parse_project(yaml12.load(PARAMS, "params.yaml").value),
        manifests={name: parse_manifest(name, yaml12.load(text, name).value) for name, text in documents.items()},
    )


@pytest.fixture(scope="module")
def graph() -> dict[Address, Node]:
    return build_graph(workspace())


def node(graph: dict[Address, Node], ref: str) -> Node:
    variant, _, stage = ref.partition(":")
    return graph[Address(variant=variant, stage=stage)]


def edges(graph: dict[Address, Node], ref: str) -> list[tuple[str, str, str]]:
    return [
        (edge.role, edge.name, edge.source.path if isinstance(edge.source, DataFile) else str(edge.source))
        for edge in node(graph, ref).edges
    ]


def test_every_stage_import_and_base_is_a_node(graph: dict[Address, Node]) -> None:
    assert {str(address): one.kind for address, one in graph.items()} == {
        "bases:tiny": "import",
        "bases:large": "import",
        "support:concise": "import",
        "support:tone": "sft",
        "support:more": "sft",
        "support:toned": "fold",
        "support:pref": "dpo",
        "support:score": "evaluate",
        "voice:base": "import",
        "voice:voice": "sft",
    }


def test_inputs_have_roles_and_an_adapter_brings_its_base(graph: dict[Address, Node]) -> None:
    talks, likes = ("data", "talks", "data/talks.jsonl"), ("data", "likes", "data/likes.jsonl")
    assert edges(graph, "support:tone") == [("from", "base", "bases:tiny"), talks]
    assert edges(graph, "support:more") == [
        ("from", "tone", "support:tone"),
        ("base", "bases:tiny", "bases:tiny"),
        talks,
    ]
    assert edges(graph, "support:toned") == [
        ("from", "base", "bases:tiny"),
        ("adapter", "tone", "support:tone"),
        ("adapter", "voice", "voice:voice"),
    ]
    assert edges(graph, "support:pref") == [("from", "toned", "support:toned"), likes]
    assert edges(graph, "support:score") == [
        ("from", "more", "support:more"),
        ("base", "bases:tiny", "bases:tiny"),
        ("against", "toned", "support:toned"),
        ("data", "heldout", "data/heldout.jsonl"),
        talks,
    ]
    assert edges(graph, "support:concise") == [("base", "tiny", "bases:tiny")]
    assert edges(graph, "voice:voice")[0] == ("from", "base", "voice:base")


def test_what_is_said_on_one_input_alone_travels_with_it(graph: dict[Address, Node]) -> None:
    assert [dict(edge.settings) for edge in node(graph, "support:toned").edges] == [
        {},
        {"weight": 1.0},
        {"weight": 0.5},
    ]
    assert [dict(edge.settings) for edge in node(graph, "support:score").edges][3:] == [
        {"label": "kl", "metric": "kl", "turns": "assistant"},
        {"label": "drift", "metric": "kl", "turns": "assistant"},
    ]


def test_an_action_keeps_no_name_and_no_path(graph: dict[Address, Node]) -> None:
    settings = node(graph, "support:tone").action_settings()
    assert set(settings) == {"adapter", "targets", "train"}
    assert settings["train"]["batch"] == 32  # type: ignore[call-overload, index] # the default of params.yaml
    assert node(graph, "support:pref").action_settings()["train"]["beta"] == 0.3  # type: ignore[call-overload, index]
    assert node(graph, "support:toned").action_settings() == {}
    assert node(graph, "bases:tiny").action_settings() == {"sha256": f"sha256:{'a' * 64}"}
    assert node(graph, "bases:large").action_settings() == {"hub": "acme/large", "revision": "b" * 40}
    assert node(graph, "support:concise").action_settings() == {"sha256": f"sha256:{'c' * 64}"}
    assert node(graph, "voice:base").action_settings() == {"artifact": f"sha256:{'d' * 64}"}


def test_the_order_of_a_selector_does_not_change_an_action(graph: dict[Address, Node]) -> None:
    other = build_graph(workspace(support=SUPPORT.replace("[mlp, attention]", "[attention, mlp]")))
    assert node(other, "support:tone").action_settings() == node(graph, "support:tone").action_settings()


def test_a_stage_reads_these_keys_and_no_others(graph: dict[Address, Node]) -> None:
    manifest = "models/support/model.yaml"
    assert node(graph, "support:tone").params == (
        (manifest, "stages.tone"),
        (manifest, "data.talks"),
        ("params.yaml", "defaults.sft"),
        ("params.yaml", "recipes.sft"),
    )
    assert node(graph, "support:pref").params == (
        (manifest, "stages.pref"),
        (manifest, "data.likes"),
        (manifest, "defaults.dpo"),
        ("params.yaml", "recipes.dpo"),
    )
    assert node(graph, "support:concise").params == ((manifest, "adapters.concise"), ("params.yaml", "recipes.import"))
    assert node(graph, "bases:tiny").params == (("params.yaml", "bases.tiny"), ("params.yaml", "recipes.import"))
    assert node(graph, "voice:base").params[0] == ("models/voice/model.yaml", "base")


def test_a_name_that_a_manifest_does_not_have() -> None:
    with pytest.raises(KeyError):
        resolve(workspace().manifests["support"], "nothing")


def test_the_base_of_a_pinned_adapter_is_not_known() -> None:
    pinned = f'voice: {{variant: voice@v1.0.0, digest: "sha256:{"e" * 64}"}}'
    text = SUPPORT.replace("voice: {variant: voice, stage: voice}", pinned).replace("from: more,", "from: voice,")
    with pytest.raises(InvalidError) as caught:
        build_graph(workspace(support=text))
    assert str(caught.value) == (
        "the base of the pinned adapter 'voice' is not known here\n"
        "  where: models/support/model.yaml: adapters.voice\n"
        "  mend: name it by {variant, stage}, or fold it instead of training or evaluating it"
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data/talks.jsonl", {"format": "text"}),
        ("data/talks.jsonl.gz", {"format": "text"}),
        ("data/talks", {"format": "text"}),
        ("data/talks.txt", {"format": "text", "rows": "one"}),
        ("data/talks.MD", {"format": "text", "rows": "one"}),
        ("data/talks.txt.zst", {"format": "text", "rows": "one"}),
    ],
)
def test_an_action_says_where_a_file_of_data_is_one_row(path: str, said: dict[str, str]) -> None:
    """The same bytes are one text under a name, and a row a line under another."""
    assert Edge(role="data", name="talks", source=DataFile(path=path, format="text")).said == said


def test_an_action_says_nothing_of_how_code_is_read() -> None:
    assert Edge(role="reward", name="rate", source=CodeFile(path="rewards/rate.txt")).said == {}
