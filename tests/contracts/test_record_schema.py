"""The JSON Schemas of record and artifact.json say what their readers do, over every small change of a document."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from registry.action import Action, ActionInput
from registry.artifact import Artifact, FileEntry, TensorEntry
from registry.digest import digest_bytes
from registry.errors import InvalidError
from registry.record import ArtifactSummary, ComponentChange, Record, RecordInput, Renumbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEMAS = Path(__file__).resolve().parents[2] / "registry" / "schema"
A, B = digest_bytes(b"a"), digest_bytes(b"b")
ARTIFACT = Artifact(
    type="model",
    files=(
        FileEntry(path="config.json", size_bytes=2, digest=A),
        FileEntry(path="shards/model.safetensors", size_bytes=9, digest=B),
    ),
    tensors=(TensorEntry(name="w", dtype="F32", shape=(2, 1), file="shards/model.safetensors", digest=B),),
)
RECORD = Record(
    variant="support",
    stage="final",
    action=Action(
        kind="fold",
        recipe=1,
        settings={"weights": {"tone": 1.0}},
        inputs=(ActionInput(role="from", digest=A, settings={"weight": 0.5}),),
    ),
    artifact=ArtifactSummary.of(ARTIFACT),
    inputs=(RecordInput(role="from", name="base", digest=A, weights_digest=None, source="bases:tiny"),),
    components=(ComponentChange(component="attention", change="composed", layers="0-3", tensors=8, by="tone"),),
    metrics={"loss": {"value": 1.5, "against": 2.0}},
    environment={"torch": "2.13.0"},
    device="cpu",
    micro_batch=0,
    duration_s=1.25,
    peak_memory_mib=300.0,
    depends_on=("card",),
    notes=("rebased",),
    reused_from="other:final",
    renumbered=(Renumbered(digest=A, what="tokens"),),
    device_memory_mib=20787.5,
    curve=("step\tloss\teval_loss", "1\t2.5\t", "2\t1e-05\t-0.25"),
)
OTHERS: tuple[Any, ...] = (
    None,
    True,
    -1,
    1,
    1.5,
    "",
    "text",
    "../up",
    "a\\b",
    str(A),
    "sha256:ABC",
    [],
    ["a", "b"],
    {},
)

# What no schema can say: digests that do not follow, order, and names across entries.
BEYOND = (
    "is not the digest of",
    "not sorted",
    "differ in case",
    "lists itself",
    "lie in files that are not listed",
)


def paths(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:  # noqa: ANN401
    """Key paths of everything in a document."""
    yield at
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from paths(inner, (*at, key))


def changes(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every document that differs in one place: another value, a key less, a key more, an entry twice."""
    for path in [one for one in paths(document) if one]:
        for other in OTHERS:
            changed, parent = _copy(document, path)
            parent[path[-1]] = other
            yield f"{path} = {other!r}", changed
        changed, parent = _copy(document, path)
        del parent[path[-1]]
        yield f"{path} removed", changed
        changed, parent = _copy(document, path)
        if isinstance(parent[path[-1]], dict):
            parent[path[-1]]["more"] = "x"
        elif isinstance(parent[path[-1]], list):
            parent[path[-1]] *= 2
        yield f"{path} with more", changed
    yield "more", document | {"more": 1}


def _copy(document: dict[str, Any], path: tuple[str | int, ...]) -> tuple[dict[str, Any], Any]:
    changed = copy.deepcopy(document)
    parent: Any = changed
    for key in path[:-1]:
        parent = parent[key]
    return changed, parent


@pytest.mark.parametrize(
    ("name", "data", "read"),
    [
        ("record", RECORD.to_bytes(), Record.from_bytes),
        ("artifact", ARTIFACT.to_bytes(), Artifact.from_bytes),
    ],
)
def test_schema_and_reader_agree(name: str, data: bytes, read: Callable[..., object]) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_bytes())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    document = json.loads(data)
    assert validator.is_valid(document)
    seen = {True: 0, False: 0}
    for what, changed in changes(document):
        verdict = _accepts(read, json.dumps(changed).encode())
        assert validator.is_valid(changed) == verdict, what
        seen[verdict] += 1
    assert min(seen.values()) > 30


def _accepts(read: Callable[..., object], data: bytes) -> bool:
    try:
        read(data, where="x")
    except InvalidError as error:
        return any(text in error.what for text in BEYOND)
    return True


OPTIONAL: dict[str, set[str]] = {"record": {"curve", "device_memory_mib"}, "artifact": set()}
"""Keys that came later; a document without them is read, and written again, as it was."""


def test_every_property_is_required_and_no_other_is_allowed() -> None:
    """Adding a key to a value without its schema, or the other way round, shows here."""
    for name, value in (("record", json.loads(RECORD.to_bytes())), ("artifact", ARTIFACT.to_dict())):
        schema = json.loads((SCHEMAS / f"{name}.schema.json").read_bytes())
        assert set(schema["properties"]) == set(schema["required"]) | OPTIONAL[name] == set(value)
        assert schema["additionalProperties"] is False


def test_a_record_from_before_the_later_keys_keeps_its_bytes() -> None:
    earlier = dataclasses.replace(RECORD, device_memory_mib=0.0, curve=()).to_bytes()
    assert not OPTIONAL["record"] & set(json.loads(earlier))
    assert Record.from_bytes(earlier, where="x").to_bytes() == earlier
    assert Record.from_bytes(RECORD.to_bytes(), where="x") == RECORD
