"""What decides an action, and what stops a stage before anything is computed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from builder import run
from builder.graph import Address, build_graph
from builder.load import load
from builder.room import artifact_bytes
from registry.artifact import Artifact
from registry.digest import digest_bytes
from registry.errors import InvalidError, MachineError
from registry.record import ComponentChange, RecordInput
from tests.simulator import make_record

if TYPE_CHECKING:
    from pathlib import Path

    from registry.index import Index
    from registry.store import Store

GROWN = Address(variant="grain", stage="grown")
MANIFEST = """\
schema: 1
data: {rows: {path: rows.jsonl, format: text}}
stages:
  grown: {kind: pretrain, data: rows, network: {layers: 1, hidden_size: 64, heads: 4}}
  read: {kind: evaluate, from: grown, metrics: {loss: rows}}
release: grown
checks: []
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("bases: {}\nrecipes: {pretrain: 1, evaluate: 1}\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "messages": []}\n')
    (tmp_path / "models/grain").mkdir(parents=True)
    (tmp_path / "models/grain/model.yaml").write_text(MANIFEST)
    return tmp_path


def prepared(root: Path, address: Address = GROWN) -> run._Job:
    no_index = cast("Index", None)  # asked for the ancestors of a model only
    return run._prepare(root, build_graph(load(root))[address], no_index)


def test_the_format_of_data_decides_what_is_learnt(root: Path) -> None:
    """The same file may be readable as texts and as messages."""
    action = prepared(root).action
    assert [one.settings for one in action.inputs] == [{"format": "text"}]


def test_names_and_places_decide_nothing(root: Path) -> None:
    before = prepared(root).action.digest
    (root / "rows.jsonl").rename(root / "lines.jsonl")
    (root / "models/grain").rename(root / "models/wheat")
    text = MANIFEST.replace("rows", "lines").replace("grown", "sown")
    (root / "models/wheat/model.yaml").write_text(text)
    assert prepared(root, Address(variant="wheat", stage="sown")).action.digest == before


def test_a_pinned_release_keeps_its_inputs_when_it_is_shown_after_a_kill(root: Path) -> None:
    job = prepared(root)
    given = RecordInput(role="from", name="base", digest=digest_bytes(b"x"), weights_digest=None, source="a:b")
    empty = Artifact(type="model", files=(), tensors=())
    record = replace(make_record(empty), inputs=(given,))
    pinned = run._Job(root=root, node=job.node, inputs=(), action=job.action)
    assert run._own(record, pinned).inputs == (given,)
    assert run._own(record, pinned).ref == "grain:grown"
    assert [one.source for one in run._own(record, job).inputs] == ["data:rows.jsonl"]


def test_what_did_a_change_is_named_as_this_manifest_names_it(root: Path) -> None:
    job = prepared(root)
    own = job.inputs[0]
    theirs = RecordInput(role=own.role, name="lines", digest=own.digest, weights_digest=None, source="data:x")
    change = ComponentChange(component="mlp", change="added", layers="0", tensors=1, by="lines, pretrain")
    record = replace(make_record(Artifact(type="model", files=(), tensors=())), inputs=(theirs,), components=(change,))
    assert [one.by for one in run._own(record, job).components] == [f"{own.name}, pretrain"]


def test_a_pipeline_that_was_never_compiled(root: Path) -> None:
    no_index, no_store = cast("Index", None), cast("Store", None)
    with pytest.raises(InvalidError) as caught:
        run.run_stage(root, GROWN, index=no_index, store=no_store, say=print)
    assert str(caught.value) == (
        "the pipeline is not what the manifests say\n"
        "  where: models/grain/dvc.yaml\n"
        "  mend: run `varietal compile`, then `dvc repro`"
    )


def test_a_disk_without_room_for_what_would_come_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = prepared(root)
    needed = artifact_bytes(job.node.settings, (), root) + (64 << 20)
    assert needed > (64 << 20) + 4 * 4096 * 64  # the new network's embedding, though no input is a model
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, needed - 1))
    with pytest.raises(MachineError) as caught:
        run._check_room(job)
    assert str(caught.value) == (
        f"{needed - 1} bytes are free, the stage may need {needed}\n"
        f"  where: {root}/.varietal\n"
        "  mend: make room (`dvc gc --workspace` removes what no pipeline names), then run again"
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, needed))
    run._check_room(job)


def test_an_action_holds_plain_values(root: Path) -> None:
    action = prepared(root).action.to_dict()
    assert json.loads(json.dumps(action)) == action
    assert "rows" not in json.dumps(action)
    assert str(root) not in json.dumps(action)
