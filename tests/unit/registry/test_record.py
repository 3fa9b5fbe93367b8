"""Records, actions and provenance: exact forms, what contradicts itself, where things lie."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.action import Action, ActionInput
from registry.artifact import Artifact, FileEntry
from registry.digest import digest_bytes
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from registry.record import (
    ArtifactSummary,
    ComponentChange,
    Record,
    RecordInput,
    artifact_folder,
    artifact_record,
    git_record,
    lock_file,
    manifest_file,
)

A, B = digest_bytes(b"a"), digest_bytes(b"b")
ACTION = Action(
    kind="fold",
    recipe=1,
    settings={},
    inputs=(ActionInput(role="from", digest=A), ActionInput(role="adapter", digest=B, settings={"weight": 0.5})),
)
ARTIFACT = Artifact(type="model", files=(FileEntry(path="config.json", size_bytes=2, digest=A),), tensors=())
RECORD = Record(
    variant="support",
    stage="final",
    action=ACTION,
    artifact=ArtifactSummary.of(ARTIFACT),
    inputs=(RecordInput(role="from", name="base", digest=A, weights_digest=B, source="bases:tiny"),),
    components=(ComponentChange(component="attention", change="composed", layers="0-3", tensors=8, by="concise"),),
    metrics={"loss": {"value": 1.5, "against": 2.0}},
    environment={"torch": "2.13.0"},
    device="cpu",
    micro_batch=0,
    duration_s=1.25,
    peak_memory_mib=300.0,
    depends_on=(),
    notes=("rebased",),
    reused_from="",
)


def test_the_order_of_inputs_does_not_change_an_action() -> None:
    assert replace(ACTION, inputs=ACTION.inputs[::-1]).digest == ACTION.digest


@pytest.mark.parametrize(
    "other",
    [
        replace(ACTION, kind="fuse"),
        replace(ACTION, recipe=2),
        replace(ACTION, settings={"a": 1}),
        replace(ACTION, inputs=ACTION.inputs[:1]),
        replace(ACTION, inputs=(ACTION.inputs[0], ActionInput(role="from", digest=B))),
    ],
)
def test_everything_else_does(other: Action) -> None:
    assert other.digest != ACTION.digest


def test_a_record_reads_back() -> None:
    for record in (RECORD, replace(RECORD, reused_from="other:final")):
        again = Record.from_bytes(record.to_bytes(), where="x")
        assert again.to_bytes() == record.to_bytes()
        assert again.digest == record.digest
        assert (again.ref, again.kind, again.action) == ("support:final", "fold", ACTION)


def test_dvc_sees_only_figures_of_a_record() -> None:
    """DVC flattens tables and leaves lists out of `dvc metrics diff`."""
    import json  # noqa: PLC0415

    value = json.loads(RECORD.to_bytes())
    seen = {key for key, one in value.items() if not isinstance(one, list)}
    assert seen == {"schema", "action_digest", "metrics", "micro_batch", "duration_s", "peak_memory_mib"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"recipe": 1', '"recipe": 2', "action_digest is not the digest of action"),
        ('"path": "config.json"', '"path": "other.json"', "artifact digest is not the digest of its files"),
        ('"notes"', '"note"', "note: expected a key of this schema, got an unknown key"),
        ('"loss": {', '"loss": [], "x": {', "expected a table, got a list"),
        ('"duration_s": 1.25', '"duration_s": "1"', "duration_s: expected a finite number, got '1'"),
        ('"final"\n', '"final", "x"\n', "stage: expected 2 of text, got 3"),
        ('"rebased"', "3", "notes: expected a list of text, got something else in it"),
    ],
)
def test_a_forged_record_is_refused(old: str, new: str, message: str) -> None:
    text = RECORD.to_bytes().decode()
    assert old in text
    with pytest.raises(InvalidError) as caught:
        Record.from_bytes(text.replace(old, new, 1).encode(), where="record")
    assert caught.value.what == message


def test_where_things_lie() -> None:
    assert str(artifact_folder("support", "final")) == "models/support/artifacts/final"
    assert str(artifact_record("support", "final")) == "models/support/artifacts/final.json"
    assert str(git_record("support", "final")) == "models/support/records/final.json"
    assert str(lock_file("support")) == "models/support/dvc.lock"
    assert str(manifest_file("support")) == "models/support/model.yaml"
    assert str(artifact_folder("bases", "tiny")) == "bases/tiny"
    assert str(artifact_record("bases", "tiny")) == "bases/tiny.json"
    assert str(git_record("bases", "tiny")) == "bases/records/tiny.json"
    assert str(manifest_file("bases")) == "params.yaml"


def test_provenance_is_one_key_and_reads_back() -> None:
    provenance = Provenance(
        kind="fold",
        method="lora",
        components=("attention",),
        layers="0-3",
        inputs=(ProvenanceInput(role="from", weights_digest=B), ProvenanceInput(role="adapter", weights_digest=A)),
        data=(B, A),
    )
    metadata = provenance.to_metadata()
    assert sorted(metadata) == ["format", "varietal"]
    again = Provenance.from_metadata(metadata, where="x")
    assert again is not None
    assert again.to_metadata() == metadata
    assert Provenance.from_metadata({"format": "pt"}, where="x") is None


def test_a_broken_provenance_is_refused() -> None:
    with pytest.raises(InvalidError, match="data, inputs, kind, layers, method: expected a value, got"):
        Provenance.from_metadata({"varietal": '{"schema": "", "components": []}'}, where="x")
