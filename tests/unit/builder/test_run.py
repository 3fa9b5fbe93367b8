"""What decides an action, and what stops a stage before anything is computed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from builder import run
from builder.graph import Address, build_graph
from builder.load import load
from builder.room import artifact_bytes, check_room
from builder.stage import Input
from registry.artifact import Artifact
from registry.digest import digest_bytes
from registry.errors import InvalidError, MachineError
from registry.record import ComponentChange, RecordInput
from tests.simulator import make_record

if TYPE_CHECKING:
    from registry.canonical import JSON
    from registry.index import Index
    from registry.record import Record
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
    kept = RecordInput(role="from", name="base", digest=digest_bytes(b"x"), weights_digest=None, source="a:b")
    empty = Artifact(type="model", files=(), tensors=())
    record = replace(make_record(empty), inputs=(kept,))
    pinned = run._Job(root=root, node=job.node, inputs=(), action=job.action)
    assert run._own(record, pinned).inputs == (kept,)
    assert run._own(record, pinned).ref == "grain:grown"
    assert [one.source for one in run._own(record, job).inputs] == ["data:rows.jsonl"]


def given(name: str, seed: bytes, role: str = "adapter", **settings: JSON) -> Input:
    digest = digest_bytes(seed)
    return Input(
        role=role,
        name=name,
        path=Path(),
        digest=digest,
        artifact=None,
        format="",
        settings=settings,
        source=f"x:{name}",
    )


def owned(root: Path, kind: str, theirs: tuple[Input, ...], ours: tuple[Input, ...], by: str, *notes: str) -> Record:
    """A record of `theirs`, taken over by a stage that calls its inputs `ours`."""
    job = prepared(root)
    made = make_record(Artifact(type="model", files=(), tensors=()))
    change = ComponentChange(component="mlp", change="added", layers="0", tensors=1, by=by)
    record = replace(
        made,
        action=replace(made.action, kind=kind),
        inputs=run._recorded(theirs),
        components=(change,),
        notes=notes,
    )
    return run._own(record, replace(job, inputs=ours))


def test_what_did_a_change_is_named_as_this_manifest_names_it(root: Path) -> None:
    theirs = (given("base", b"base", "from"), given("tone", b"1"), given("pref", b"2"))
    ours = (given("toned", b"base", "from"), given("voice", b"1"), given("also", b"2"))
    note = "adapter tone was rebased: trained on weights 12ab, an ancestor of base"
    other = 'base-model is "tone" in pref, tone.x and base/x stay; x is 1 in tone'
    record = owned(root, "fold", theirs, ours, "pref, tone", note, other)
    assert [one.by for one in record.components] == ["also, voice"]
    assert record.notes == (
        "adapter voice was rebased: trained on weights 12ab, an ancestor of toned",
        'base-model is "tone" in also, tone.x and base/x stay; x is 1 in voice',
    )


def test_two_inputs_of_one_digest_keep_their_names_apart(root: Path) -> None:
    theirs = (given("heavy", b"1", weight=0.7), given("light", b"1", weight=0.3))
    ours = (given("thin", b"1", weight=0.3), given("fat", b"1", weight=0.7))
    for by, expected in (("heavy", "fat"), ("light", "thin"), ("heavy, light", "fat, thin")):
        record = owned(root, "fold", theirs, ours, by)
        assert [one.by for one in record.components] == [expected]
        assert sorted(one.name for one in record.inputs) == ["fat", "thin"]


def test_a_kind_is_not_renamed_where_an_input_is_called_so(root: Path) -> None:
    record = owned(root, "cast", (given("cast", b"1", "from"),), (given("start", b"1", "from"),), "cast")
    assert [one.by for one in record.components] == ["cast"]
    record = owned(root, "fuse", (given("fuse", b"1"),), (given("start", b"1"),), "fuse")
    assert [one.by for one in record.components] == ["start"]  # there it is the adapter


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
        check_room(root, job.node.settings, job.inputs)
    assert str(caught.value) == (
        f"{needed - 1} bytes are free, the stage may need {needed}\n"
        f"  where: {root}/.varietal\n"
        "  mend: make room (`dvc gc --workspace` removes what no pipeline names), then run again"
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, needed))
    check_room(root, job.node.settings, job.inputs)


def test_an_action_holds_plain_values(root: Path) -> None:
    action = prepared(root).action.to_dict()
    assert json.loads(json.dumps(action)) == action
    assert "rows" not in json.dumps(action)
    assert str(root) not in json.dumps(action)
