"""Pipeline files: exact text, and the static ones."""

from __future__ import annotations

import pytest
import yaml

from builder.graph import Address, DataFile, Edge, Node
from builder.manifest import PretrainStage
from builder.pipeline import BASES_PIPELINE, ROOT_PIPELINE, compile_variant, pipeline_file, pipelines
from builder.settings import NetworkSettings
from registry import yaml12
from registry.errors import InvalidError

ADDRESS = Address(variant="seed", stage="grown")


def graph(path: str = "data/prose.jsonl") -> dict[Address, Node]:
    settings = PretrainStage(data="prose", network=NetworkSettings(layers=1, hidden_size=8, heads=1))
    node = Node(
        address=ADDRESS,
        kind="pretrain",
        settings=settings,
        edges=(Edge(role="data", name="prose", source=DataFile(path=path, format="text")),),
        params=(("models/seed/model.yaml", "stages.grown"), ("params.yaml", "recipes.pretrain")),
    )
    return {ADDRESS: node}


def test_the_text_of_a_pipeline() -> None:
    assert compile_variant("seed", graph()) == (
        "# Made by `varietal compile` from model.yaml; edit that.\n"
        "stages:\n"
        "  grown:\n"
        "    wdir: ../..\n"
        "    cmd: varietal run seed grown\n"
        "    deps:\n"
        "    - data/prose.jsonl\n"
        "    params:\n"
        "    - models/seed/model.yaml:\n"
        "      - stages.grown\n"
        "    - params.yaml:\n"
        "      - recipes.pretrain\n"
        "    outs:\n"
        "    - models/seed/artifacts/grown\n"
        "    - models/seed/artifacts/grown.json\n"
        "  records:\n"
        "    wdir: ../..\n"
        "    cmd: varietal run seed records\n"
        "    deps:\n"
        "    - models/seed/artifacts/grown.json\n"
        "metrics:\n"
        "- records/grown.json\n"
        "plots:\n"
        "- grown loss:\n"
        "    x:\n"
        "      records/grown.tsv: step\n"
        "    y:\n"
        "      records/grown.tsv: loss\n"
        "- grown learning rate:\n"
        "    x:\n"
        "      records/grown.tsv: step\n"
        "    y:\n"
        "      records/grown.tsv: learning_rate\n"
        "- grown gradient norm:\n"
        "    x:\n"
        "      records/grown.tsv: step\n"
        "    y:\n"
        "      records/grown.tsv: gradient_norm\n"
    )


def test_a_repository_has_two_static_files_and_one_a_variant() -> None:
    texts = pipelines(graph())
    assert texts == {
        "dvc.yaml": ROOT_PIPELINE,
        "bases/dvc.yaml": BASES_PIPELINE,
        "models/seed/dvc.yaml": compile_variant("seed", graph()),
    }
    assert yaml.safe_load(ROOT_PIPELINE) == {"stages": {}}
    assert str(pipeline_file("bases")) == "bases/dvc.yaml"


@pytest.mark.parametrize(
    "path",
    [
        *("1e4", "1e-4", "0x10", "0o17", "0b1", "010", "1_000", ".5", ".inf", "+1", "2026-01-02", "1:30"),
        *("on", "yes", "null", "~", "=", "<<", "a: b", "#a", "- a", "'a'", "a b", "caf\u00e9.jsonl", "*a", "data/1e4"),
    ],
)
def test_a_path_is_text_to_dvc(path: str) -> None:
    document = yaml12.load(compile_variant("seed", graph(path)), "dvc.yaml").value
    assert isinstance(document, dict)
    assert document["stages"]["grown"]["deps"] == [path]


def test_a_path_that_dvc_would_expand_is_refused() -> None:
    with pytest.raises(InvalidError) as caught:
        compile_variant("seed", graph("data/${x}.jsonl"))
    assert str(caught.value) == (
        "a path holds '${', which DVC takes for a variable\n  where: models/seed/dvc.yaml\n  mend: rename the file"
    )
