"""What a task would miss, and what is put back without asking a remote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.drive.inputs import members_of, missing_inputs, missing_records, missing_sources, restore_records
from builder.edges import Address, DataFile
from builder.graph import build_graph
from builder.load import load
from registry.lock import Lock, content_md5

if TYPE_CHECKING:
    from pathlib import Path

    from builder.graph import Node

MANIFEST = """\
schema: 1
base: tiny
data: {talks: {path: talks.jsonl, format: messages}}
stages:
  tone: {kind: sft, from: base, data: talks, adapter: {rank: 2}}
  folded: {kind: fold, from: base, adapters: {tone: 1.0}}
release: folded
"""
TINY, TONE, FOLDED = (Address(variant=a, stage=b) for a, b in (("bases", "tiny"), ("one", "tone"), ("one", "folded")))


@pytest.fixture
def graph(tmp_path: Path) -> dict[Address, Node]:
    (tmp_path / "params.yaml").write_text(
        f'bases: {{tiny: {{path: sources/tiny, sha256: "{"0" * 64}"}}}}\nrecipes: {{sft: 1, fold: 1, import: 1}}\n'
    )
    (tmp_path / "talks.jsonl.dvc").write_text("outs: []\n")
    (tmp_path / "models/one").mkdir(parents=True)
    (tmp_path / "models/one/model.yaml").write_text(MANIFEST)
    return build_graph(load(tmp_path))


def test_artifacts_by_their_stage_and_data_by_its_path(graph: dict[Address, Node], tmp_path: Path) -> None:
    assert missing_inputs(tmp_path, graph[TONE]) == ("bases/dvc.yaml:base@tiny", "talks.jsonl")
    assert missing_sources(tmp_path, graph[TONE]) == (TINY, DataFile(path="talks.jsonl", format="messages"))
    (tmp_path / "bases/tiny").mkdir(parents=True)
    (tmp_path / "talks.jsonl").write_text("")
    assert missing_inputs(tmp_path, graph[TONE]) == ()
    assert missing_inputs(tmp_path, graph[FOLDED]) == ("models/one/dvc.yaml:tone",)


def test_the_source_of_an_import_only_where_dvc_has_it(graph: dict[Address, Node], tmp_path: Path) -> None:
    assert missing_inputs(tmp_path, graph[TINY]) == ()
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/tiny.dvc").write_text("")
    assert missing_inputs(tmp_path, graph[TINY]) == ("sources/tiny",)


def test_whose_records_are_copied_together(graph: dict[Address, Node]) -> None:
    assert members_of(graph, "one", "") == (TONE, FOLDED)
    assert members_of(graph, "bases", "tiny") == (TINY,)


def test_a_record_comes_back_from_git_only_where_it_is_what_was_built(tmp_path: Path) -> None:
    assert missing_records(tmp_path, [TONE, FOLDED]) == (TONE, FOLDED)
    (tmp_path / "models/one/records").mkdir(parents=True)
    for name in ("tone", "folded"):
        (tmp_path / f"models/one/records/{name}.json").write_text(name)
    outs = "".join(
        f"  {name}:\n    cmd: x\n    outs: [{{path: models/one/artifacts/{name}.json, md5: {md5}, size: 4}}]\n"
        for name, md5 in (("tone", content_md5(b"tone")), ("folded", content_md5(b"other")))
    )
    lock = Lock.parse(f"schema: '2.0'\nstages:\n{outs}", where="dvc.lock")
    assert restore_records(tmp_path, [TONE, FOLDED], lock) == ("models/one/artifacts/folded.json",)
    assert (tmp_path / "models/one/artifacts/tone.json").read_text() == "tone"
    assert missing_records(tmp_path, [TONE, FOLDED]) == (FOLDED,)
