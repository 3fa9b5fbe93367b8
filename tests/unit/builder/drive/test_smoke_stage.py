"""What a smoke test cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from builder.drive.smoke_stage import shortened
from builder.edges import Address
from builder.graph import build_graph
from builder.load import load

if TYPE_CHECKING:
    from pathlib import Path

    from builder.graph import Node

MANIFEST = """\
schema: 1
data: {rows: {path: rows.jsonl, format: text}}
stages:
  grown: {kind: pretrain, data: rows, network: {layers: 1, hidden_size: 64, heads: 4}, train: {epochs: 3, batch: 64}}
  tuned: {kind: sft, from: grown, data: rows, train: {steps: 1, loss_on: all}}
  pruned:
    {kind: sft, from: grown, data: rows, adapter: {type: adalora, tinit: 50, tfinal: 9}, train: {loss_on: all}}
  cast: {kind: cast, from: tuned, dtype: bfloat16}
  read: {kind: evaluate, from: cast, metrics: {loss: rows}}
  brief: {kind: evaluate, from: cast, metrics: {loss: rows}, limit: 2}
release: cast
"""


@pytest.fixture
def graph(tmp_path: Path) -> dict[str, Node]:
    (tmp_path / "params.yaml").write_text("bases: {}\nrecipes: {pretrain: 1, sft: 1, cast: 1, evaluate: 1}\n")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "models/v").mkdir(parents=True)
    (tmp_path / "models/v/model.yaml").write_text(MANIFEST)
    return {address.stage: node for address, node in build_graph(load(tmp_path)).items()}


def test_a_training_is_cut_to_a_few_steps_of_the_batch_that_it_has(graph: dict[str, Node]) -> None:
    train = shortened(graph["grown"]).settings.train  # type: ignore[union-attr]
    assert (train.steps, train.batch) == (2, 64)


def test_one_that_is_shorter_stays_so(graph: dict[str, Node]) -> None:
    assert shortened(graph["tuned"]).settings.train.steps == 1  # type: ignore[union-attr]
    assert shortened(graph["brief"]).settings.limit == 2  # type: ignore[union-attr]


def test_ranks_are_dropped_within_those_steps(graph: dict[str, Node]) -> None:
    settings: Any = shortened(graph["pruned"]).settings
    assert (settings.train.steps, settings.adapter.tinit, settings.adapter.tfinal) == (2, 0, 0)
    assert settings.adapter.init_rank == 12


def test_an_evaluation_is_cut_to_a_few_rows(graph: dict[str, Node]) -> None:
    assert shortened(graph["read"]).settings.limit == 4  # type: ignore[union-attr]


def test_what_has_neither_stays_whole(graph: dict[str, Node]) -> None:
    assert shortened(graph["cast"]) == graph["cast"]
    assert shortened(graph["grown"]).address == Address(variant="v", stage="grown")
